//! The page in a real browser.

use std::net::SocketAddr;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::browser::{Browser, keys};
use crate::support::{Apiserver, DataserverProcess, eventually, get, pause, tools, trial_with, within};

pub fn trials() -> Vec<Trial> {
    let browser = &*tools::BROWSER;
    // Not a test: `PAGE_PICTURE=docs/page.png cargo test --test gateway page::picture` makes the picture in the README.
    if std::env::var_os("PAGE_PICTURE").is_some() {
        return vec![trial_with("page::picture", browser, picture)];
    }
    vec![trial_with("page::chromium_shows_what_happens", browser, chromium_shows_what_happens)]
}

/// What of the page is looked at again and again.
impl Browser {
    /// The text of what a selector finds; empty if it finds nothing.
    #[track_caller]
    fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector('{selector}')?.innerText ?? ''"));
        text.as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn wait_for_text(&self, selector: &str, wanted: &str) {
        let mut last = String::new();
        within(Duration::from_secs(30), &format!("{wanted:?} at {selector}"), || {
            last = self.text(selector);
            last.contains(wanted).then_some(())
        });
    }

    /// The rows of the table: state and address.
    #[track_caller]
    fn rows(&self) -> Vec<(String, String)> {
        let rows = self.run(
            "return [...document.querySelectorAll('#rows tr')].map((row) => \
             [row.cells[0].innerText.trim(), row.querySelector('.addr').innerText])",
        );
        serde_json::from_value(rows).unwrap()
    }

    #[track_caller]
    fn wait_for_row(&self, state: &str, addr: &str) {
        let wanted = (state.to_owned(), addr.to_owned());
        eventually(&format!("{wanted:?}"), || self.rows().contains(&wanted).then_some(()));
    }
}

/// One session for all: a browser takes its time to start.
fn chromium_shows_what_happens() {
    let browser = Browser::start(1440, 950);
    a_set_of_three(&browser);
    a_set_of_five_thousand(&browser);
}

/// What would be markup if it were not text.
const MARKUP: &str = "<img/src=x/onerror=alert(1)>";

fn a_set_of_three(browser: &Browser) {
    let gateway = Apiserver::start(&format!(
        "name: '{MARKUP}'\nregistry: {{ttl: 4s, sweep_interval: 200ms}}\ntimeouts: {{drain: 5s}}\n"
    ));
    let [nsqd, ..] = gateway.nsq.unwrap();
    let config = format!("common: {{heart_beat_time: 1, nsqd: ['{nsqd}']}}\ntimeouts: {{leave: 100ms}}\n");
    let mut dataservers = [(); 3].map(|()| DataserverProcess::start(&config));
    browser.open(&format!("http://{}/dataservers", gateway.listen));
    for dataserver in &dataservers {
        browser.wait_for_row("Live", &dataserver.addr);
    }
    browser.wait_for_text("#headline", "3 of 3 live");
    assert_eq!(browser.run("return document.title"), format!("3 of 3 live · {MARKUP}"));
    browser.wait_for_text("#link", "Connected");
    browser.wait_for_text("#nsqds", &nsqd.to_string());
    requests_are_counted(browser, gateway.listen);
    nothing_is_wrong_for_who_cannot_see_it(browser);
    nothing_spills_over_at_any_width(browser, &gateway);
    markup_from_outside_stays_text(browser, &gateway);
    the_keyboard_is_enough(browser, &dataservers[0].addr);

    // One is killed: first it is doubted, then it is gone.
    dataservers[0].process.kill();
    let killed = dataservers[0].addr.clone();
    eventually("a doubt", || {
        get(gateway.listen, "/");
        browser.rows().contains(&("Suspect".to_owned(), killed.clone())).then_some(())
    });
    browser.wait_for_row("Gone", &killed);
    browser.wait_for_text("#headline", "2 of 2 live");
    browser.wait_for_text("#events", "evicted: silent for");
    browser.wait_for_text("#announcer", ":");

    // The others fall silent at once, so the set is frozen; they pass their probes, for which a kernel is enough.
    dataservers[1..].iter().for_each(|dataserver| dataserver.process.signal("STOP"));
    browser.wait_for_text("#banners", "Frozen.");
    eventually("the title", || {
        let title = browser.run("return document.title");
        title.as_str().unwrap().starts_with("frozen · 2 of 2 live").then_some(())
    });
    assert_eq!(browser.console(), [""; 0]);

    // The gateway stops, and the page says so.
    gateway.process.signal("TERM");
    browser.wait_for_text("#link", "Not connected");
    browser.wait_for_text("#banners", "The gateway was told to stop");
    drop(gateway);
    // That it cannot be reached is in the console.
    let refused = |line: &String| line.contains("ERR_CONNECTION") || line.contains("Failed to load resource");
    let told: Vec<_> = browser.console().into_iter().filter(|line| !refused(line)).collect();
    assert_eq!(told, [""; 0]);
}

fn requests_are_counted(browser: &Browser, gateway: SocketAddr) {
    eventually("a rate", || {
        get(gateway, "/");
        let rate = browser.text("#rows tr td.number");
        (rate != "–" && rate != "0").then_some(())
    });
    browser.wait_for_text("#rows tr td.number:last-child", "ms");
    assert!(
        browser
            .run("return document.querySelector('#requests-graph .line').getAttribute('d')")
            .as_str()
            .unwrap()
            .len()
            > 4
    );
}

/// axe-core's rules, in light and in dark.
fn nothing_is_wrong_for_who_cannot_see_it(browser: &Browser) {
    let modules = match &*tools::NODE {
        Ok(modules) => modules,
        Err(why) if std::env::var_os("CI").is_some() => panic!("{why}"),
        Err(why) => return eprintln!("axe-core is left out: {why}"),
    };
    browser.run_file(&modules.join("axe-core/axe.min.js"));
    for scheme in ["light", "dark"] {
        browser.prefer("prefers-color-scheme", scheme);
        let violations = browser.run_async(
            "const { violations } = await axe.run(document, { resultTypes: ['violations'] });
             return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html + node.failureSummary).join(' | ')}`);",
        );
        assert_eq!(violations, serde_json::json!([]), "{scheme}");
    }
    browser.prefer("prefers-color-scheme", "light");
}

/// What is wider than its place scrolls there, and the page does not scroll sideways.
fn nothing_spills_over_at_any_width(browser: &Browser, gateway: &Apiserver) {
    let long = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535";
    gateway
        .heartbeat(&format!(r#"{{"addr":"{long}","id":"long","seq":1,"state":"draining","proto":"h2c"}}"#));
    browser.wait_for_row("Draining", long);
    for width in (500..1_900).step_by(20) {
        browser.resize(width, 950);
        let spilled = browser.run_async(
            "await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
             const scrolls = (element) => getComputedStyle(element).overflowX !== 'visible';
             const seen = [document.documentElement, ...document.querySelectorAll('section, aside, .scroll, .tile')];
             return seen.filter((element) => element === document.documentElement || !scrolls(element))
               .filter((element) => element.scrollWidth > element.clientWidth + 1)
               .map((element) => `${element.id || element.className || element.tagName}: \
                 ${element.scrollWidth} in ${element.clientWidth}`);",
        );
        assert_eq!(spilled, serde_json::json!([]), "at a width of {width}");
    }
    browser.resize(1440, 950);
    gateway.heartbeat(&format!(r#"{{"addr":"{long}","id":"long","seq":2,"state":"down"}}"#));
    browser.wait_for_row("Gone", long);
}

fn markup_from_outside_stays_text(browser: &Browser, gateway: &Apiserver) {
    // A process that another takes the place of is told of by its name.
    let addr = "127.0.0.9:9";
    for id in ["first", MARKUP] {
        gateway.heartbeat(&format!(r#"{{"addr":"{addr}","id":"{id}","seq":1,"state":"draining"}}"#));
        browser.wait_for_row("Draining", addr);
    }
    browser.wait_for_text("#events", &format!("another process, {MARKUP}, has taken its place"));
    let click = format!(
        "[...document.querySelectorAll('#rows .addr')].find((button) => button.innerText === '{addr}').click()"
    );
    browser.run(&click);
    browser.wait_for_text("#details-facts", MARKUP);
    browser.wait_for_text("#details-events", MARKUP);
    browser.run("document.querySelector('#details-close').click()");
    assert_eq!(browser.run("return document.querySelectorAll('img').length"), 0);
    gateway.heartbeat(&format!(r#"{{"addr":"{addr}","id":"{MARKUP}","seq":2,"state":"down"}}"#));
    browser.wait_for_row("Gone", addr);
    // Nor does a script that wants to make markup of text get to.
    let made = browser
        .run("try { document.body.innerHTML = '<b>'; return 'made' } catch (error) { return error.name }");
    assert_eq!(made, "TypeError");
    assert!(browser.console().iter().all(|line| line.contains("TrustedHTML")));
}

fn the_keyboard_is_enough(browser: &Browser, addr: &str) {
    let port = addr.rsplit(':').next().unwrap();
    // Search.
    browser.press("/");
    browser.press(port);
    eventually("one row", || (browser.rows().len() == 1).then_some(()));
    browser.press(keys::ESCAPE);
    eventually("all rows", || (browser.rows().len() > 1).then_some(()));
    // Sort by address: from the search on, over the heads of the columns.
    browser.press(&keys::TAB.repeat(2));
    browser.press(keys::ENTER);
    let sorted = |sort: &str| {
        let selector = format!("th[aria-sort={sort}]");
        browser.wait_for_text(&selector, "Address");
        let mut rows = browser.rows();
        rows.retain(|(state, _)| state == "Live");
        rows
    };
    let ascending = sorted("ascending");
    browser.press(keys::ENTER);
    let mut descending = sorted("descending");
    descending.reverse();
    assert_eq!(ascending, descending);
    // The last row, and its details.
    browser.press(&keys::TAB.repeat(6));
    browser.press(keys::END);
    let focused = browser.run("return document.activeElement.innerText");
    browser.press(keys::ENTER);
    browser.wait_for_text("#details[open] #details-title", focused.as_str().unwrap());
    browser.wait_for_text("#details-events", "joined: a heartbeat came by");
    browser.press(keys::ESCAPE);
    eventually("the end of the details", || browser.text("#details[open]").is_empty().then_some(()));
    assert_eq!(browser.run("return document.activeElement.innerText"), focused);
    // By state.
    browser.run("document.querySelector('#filter input').focus()");
    browser.press(keys::DOWN);
    assert_eq!(browser.run("return document.querySelector('#filter :checked').value"), "live");
    browser.run("document.querySelector('#filter input').click()");
    browser.run("document.activeElement.blur(); document.querySelector('#columns button').click()");
}

fn a_set_of_five_thousand(browser: &Browser) {
    let gateway = Apiserver::start("registry: {ttl: 1h, trusted_joins: 100000, join_rate: 100000}\n");
    let addrs: Vec<_> = (0..5000).map(|n| format!("10.1.{}.{}:8080", n >> 8, n & 255)).collect();
    super::announce_many(&gateway, &addrs);
    browser.open(&format!("http://{}/dataservers", gateway.listen));
    browser.wait_for_text("#headline", "5,000 of 5,000 live");
    assert_eq!(browser.rows().len(), 100);
    assert_eq!(browser.text("#pager-where"), "1–100 of 5,000");
    browser.run("document.querySelector('#pager-on').click()");
    assert_eq!(browser.text("#pager-where"), "101–200 of 5,000");
    // What somebody does is answered at once; here within what even a busy machine needs for it.
    let took = browser.run(
        "const begun = performance.now();
         const search = document.querySelector('#search');
         search.value = '10.1.19.'; search.dispatchEvent(new Event('input'));
         document.querySelectorAll('#columns button')[1].click();
         return performance.now() - begun;",
    );
    assert!(took.as_f64().unwrap() < 1000.0, "{took} ms");
    let rows = browser.rows();
    assert_eq!(
        (rows.len(), rows[0].1.as_str(), rows[99].1.as_str()),
        (100, "10.1.19.0:8080", "10.1.19.99:8080")
    );
    // It goes on.
    let now = || browser.run("return document.querySelector('#rows .heard').innerText");
    let before = now();
    eventually("another age", || (now() != before).then_some(()));
    gateway.heartbeat("10.1.19.50:8081");
    browser.wait_for_text("#headline", "5,001 of 5,001 live");
    assert_eq!(browser.console(), [""; 0]);
}

/// Makes the picture that `PAGE_PICTURE` names: four minutes of traffic, at the end of which one dataserver drains and one is killed.
fn picture() {
    let gateway = Apiserver::start("");
    let [nsqd, ..] = gateway.nsq.unwrap();
    let config = format!("common: {{heart_beat_time: 3, nsqd: ['{nsqd}']}}\ntimeouts: {{leave: 1m}}\n");
    let mut dataservers: Vec<_> = (0..6).map(|_| DataserverProcess::start(&config)).collect();
    let browser = Browser::start(1360, 860);
    browser.open(&format!("http://{}/dataservers", gateway.listen));
    let load = |time: Duration| {
        let begun = std::time::SystemTime::now();
        for n in 0.. {
            get(gateway.listen, "/");
            // In waves, as users come.
            pause(Duration::from_millis(2 + n / 64 % 17));
            if begun.elapsed().unwrap() > time {
                break;
            }
        }
    };
    load(Duration::from_secs(230));
    dataservers[4].process.signal("TERM");
    load(Duration::from_secs(4));
    dataservers[1].process.kill();
    load(Duration::from_secs(3));
    let file = std::env::var("PAGE_PICTURE").unwrap();
    std::fs::write(tools::source(&file), browser.picture()).unwrap();
}
