//! Changing the config while the gateway runs: how a change comes, what a fault costs, and what each key does then.

// Counts are whole, and small.
#![allow(clippy::float_cmp, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod choice;
mod keys;
mod open_http2;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use libtest_mimic::Trial;
use nsq_gateway::config::{Change, Config};
use serde_json::Value;

use crate::support::tls::Pair;
use crate::support::{Apiserver, Process, eventually, get, on_free_ports, pause, tools, trials};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        a_file_that_is_written_in_place_is_noticed,
        a_file_that_is_renamed_over_is_noticed,
        a_file_behind_a_swapped_link_is_noticed,
        a_file_that_is_deleted_is_a_fault_until_it_is_there_again,
        sighup_reads_the_file_though_it_has_not_changed,
        without_a_file_sighup_says_so,
        faults_25_a_broken_config_leaves_the_last_good_one,
        a_file_that_was_only_touched_has_not_changed,
        what_changed_since_the_start_is_found,
        files_that_a_rejected_config_names_are_watched,
        what_needs_a_restart_is_named_and_stays,
        every_key_is_reloaded_or_named,
    ];
    trials.extend(keys::trials());
    trials.extend(choice::trials());
    trials.extend(open_http2::trials());
    trials
}

/// Looks often.
const QUICK: &str = "reload: {check_interval: 20ms}\n";

fn start(config: &str) -> Apiserver {
    Apiserver::start(&format!("{QUICK}{config}"))
}

impl Apiserver {
    /// Writes its config file anew, in place, and waits until that holds.
    #[track_caller]
    pub fn change_to(&self, config: &str) {
        let before = self.reloads("applied");
        self.write_config(&format!("{QUICK}{config}"));
        eventually("the change", || (self.reloads("applied") > before).then_some(()));
    }

    fn reloads(&self, result: &str) -> f64 {
        self.metric(&format!("gateway_config_reloads_total{{result=\"{result}\"}}"))
    }
}

#[track_caller]
fn wait_for_ttl(gateway: &Apiserver, ttl: &str) {
    let changed = format!("registry.ttl: {ttl}");
    gateway.process.wait_for(&changed, |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["key"] == "registry.ttl" && line["new"] == ttl).then_some(())
    });
}

fn a_file_that_is_written_in_place_is_noticed() {
    let gateway = start("");
    gateway.write_config(&format!("{QUICK}registry: {{ttl: 20s}}\n"));
    wait_for_ttl(&gateway, "20s");
    let told = gateway.process.wait_for("the diff", |line| {
        line.contains("the config has changed: registry.ttl: 10s → 20s").then(|| line.to_owned())
    });
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["key"], &told["old"]), (&"registry.ttl".into(), &"10s".into()));
    eventually("the count", || (gateway.reloads("applied") == 1.0).then_some(()));
    assert_eq!(gateway.metric("gateway_config_last_reload_successful"), 1.0);
    let reload = get(gateway.listen, "/readyz?verbose").json()["config_reload"].clone();
    assert_eq!((&reload["result"], &reload["faults"]), (&"applied".into(), &serde_json::json!([])));
    humantime::parse_rfc3339(reload["at"].as_str().unwrap()).unwrap();
}

fn a_file_that_is_renamed_over_is_noticed() {
    let gateway = start("");
    for ttl in ["20s", "30s"] {
        let other = gateway.config.with_file_name("new");
        fs::write(&other, on_free_ports(&format!("{QUICK}registry: {{ttl: {ttl}}}\n"))).unwrap();
        fs::rename(&other, &gateway.config).unwrap();
        wait_for_ttl(&gateway, ttl);
    }
}

/// As Kubernetes mounts a config: `config.yaml -> ..data/config.yaml`, `..data -> ..1`.
fn a_file_behind_a_swapped_link_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let version = |n: usize| {
        let version = dir.path().join(format!("..{n}"));
        fs::create_dir(&version).unwrap();
        let config = format!("{QUICK}registry: {{ttl: {}s}}\n", 10 * n);
        fs::write(version.join("config.yaml"), on_free_ports(&config)).unwrap();
        let (link, data) = (dir.path().join("..tmp"), dir.path().join("..data"));
        symlink(version.file_name().unwrap(), &link).unwrap();
        fs::rename(link, data).unwrap();
        if n > 1 {
            fs::remove_dir_all(dir.path().join(format!("..{}", n - 1))).unwrap();
        }
    };
    version(1);
    let file = dir.path().join("config.yaml");
    symlink("..data/config.yaml", &file).unwrap();
    // The directory has to live for as long as the gateway does, and the closure needs it, too.
    let gateway =
        Apiserver::start_in(tempfile::tempdir().unwrap(), file, |mut command| Process::start(&mut command));
    for n in 2..4 {
        version(n);
        wait_for_ttl(&gateway, &format!("{}s", 10 * n));
    }
    assert_eq!(gateway.reloads("rejected"), 0.0);
}

fn a_file_that_is_deleted_is_a_fault_until_it_is_there_again() {
    let gateway = start("");
    fs::remove_file(&gateway.config).unwrap();
    eventually("the fault", || (gateway.reloads("rejected") == 1.0).then_some(()));
    gateway.process.wait_for("the fault", |line| line.contains("cannot be read: No such file").then_some(()));
    assert_eq!(gateway.metric("gateway_config_last_reload_successful"), 0.0);
    gateway.write_config(&format!("{QUICK}registry: {{ttl: 20s}}\n"));
    wait_for_ttl(&gateway, "20s");
    eventually("the good one", || {
        (gateway.metric("gateway_config_last_reload_successful") == 1.0).then_some(())
    });
}

fn sighup_reads_the_file_though_it_has_not_changed() {
    // It would not be looked at.
    let gateway = Apiserver::start("reload: {check_interval: 1h}\n");
    gateway.process.signal("HUP");
    eventually("the count", || (gateway.reloads("unchanged") == 1.0).then_some(()));
    gateway.write_config("reload: {check_interval: 1h}\nregistry: {ttl: 20s}\n");
    gateway.process.signal("HUP");
    wait_for_ttl(&gateway, "20s");
    // A change of the interval itself holds as well.
    gateway.write_config(&format!("{QUICK}registry: {{ttl: 30s}}\n"));
    gateway.process.signal("HUP");
    wait_for_ttl(&gateway, "30s");
    gateway.change_to("registry: {ttl: 40s}\n");
    wait_for_ttl(&gateway, "40s");
}

fn without_a_file_sighup_says_so() {
    // The demo makes its config itself, from what the file said at the start.
    let gateway = Apiserver::start_with("common: {server_addr: '127.0.0.1:0'}\n", |command| {
        command.arg("demo");
    });
    gateway.process.signal("HUP");
    gateway.process.wait_for("the word", |line| line.contains("no config file is read again").then_some(()));
    assert_eq!(get(gateway.listen, "/healthz").status, 200);
}

fn faults_25_a_broken_config_leaves_the_last_good_one() {
    let gateway = start("registry: {ttl: 20s}\n");
    let good = fs::read_to_string(&gateway.config).unwrap();
    let half = &good[..good.find("ttl").unwrap() + 2];
    let cases = [
        ("registry:\n  ttl: soon\nlimits: {head_bytes: 1, x: 2}\n", "registry.ttl", Some(2)),
        ("registry: [\n", "", Some(2)),
        (half, "", None),
        ("", "", None),
        ("\n \n", "", None),
        ("[]", "", None),
        ("\0\u{1}", "", None),
        ("registry: {snapshot: /no/such/place}", "registry.snapshot", Some(1)),
        ("\n\nnsq: {heartbeat_key_file: /no/such/file}", "nsq.heartbeat_key_file", Some(3)),
        ("gateway: {tls: {cert: /no/cert, key: /no/key}}", "gateway.tls.cert", Some(1)),
    ];
    for (n, (text, key, line)) in cases.into_iter().enumerate() {
        fs::write(&gateway.config, text).unwrap();
        let rejected = |n: usize| (gateway.reloads("rejected") as usize == n).then_some(());
        eventually(text, || rejected(n + 1));
        let reload = get(gateway.listen, "/readyz?verbose").json()["config_reload"].clone();
        assert_eq!(reload["result"], "rejected", "{text}");
        let first = &reload["faults"][0];
        if !key.is_empty() {
            assert_eq!(first["key"], key, "{reload}");
        }
        if let Some(line) = line {
            assert_eq!(first["line"], line, "{reload}");
        }
        // Each fault has a line in the log.
        for fault in reload["faults"].as_array().unwrap() {
            let message = fault["message"].as_str().unwrap();
            gateway.process.wait_for(message, |line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let told = line["key"] == fault["key"] && line["line"] == fault["line"];
                (told && line["message"].as_str()?.contains(message)).then_some(())
            });
        }
    }
    assert_eq!(gateway.metric("gateway_config_last_reload_successful"), 0.0);
    assert_eq!(gateway.reloads("applied"), 0.0);
    fs::write(&gateway.config, &good).unwrap();
    eventually("the good one", || (gateway.reloads("unchanged") == 1.0).then_some(()));
    assert_eq!(gateway.metric("gateway_config_last_reload_successful"), 1.0);
    assert_eq!(gateway.process.count("the config has changed"), 0);
}

fn a_file_that_was_only_touched_has_not_changed() {
    let gateway = start("");
    // It is watched from here on.
    gateway.change_to("registry: {ttl: 15s}\n");
    fs::copy(&gateway.config, gateway.config.with_extension("new")).unwrap();
    fs::rename(gateway.config.with_extension("new"), &gateway.config).unwrap();
    let file = fs::File::options().append(true).open(&gateway.config).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    // What follows is noticed, so that what came before would have been, too.
    gateway.change_to("registry: {ttl: 20s}\n");
    assert_eq!(gateway.reloads("unchanged"), 0.0);
}

fn what_changed_since_the_start_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let config = format!("{QUICK}registry: {{ttl: 10s}}\n");
    fs::write(&file, on_free_ports(&config)).unwrap();
    let gateway = Apiserver::start_in(dir, file, |mut command| Process::start(&mut command));
    gateway.write_config(&format!("{QUICK}registry: {{ttl: 20s}}\n"));
    wait_for_ttl(&gateway, "20s");
}

/// Whoever names a file before it is there need not touch the config again.
fn files_that_a_rejected_config_names_are_watched() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start("gateway: {admin_listen: '127.0.0.1:0'}\n");
    let reloads = |result: &str, times: f64| {
        eventually(&format!("{times} {result}"), || (gateway.reloads(result) == times).then_some(()));
    };
    let names_key = format!("nsq: {{heartbeat_key_file: '{}'}}\n", dir.path().join("key").display());
    gateway.write_config(&format!("{QUICK}gateway: {{admin_listen: '127.0.0.1:0'}}\n{names_key}"));
    reloads("rejected", 1.0);
    fs::write(dir.path().join("new"), "correct horse battery staple\n").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("key")).unwrap();
    reloads("applied", 1.0);
    assert_eq!(gateway.reloads("rejected"), 1.0, "it is told once");
    let tls = format!("tls: {{cert: '{0}/cert.pem', key: '{0}/key.pem'}}", dir.path().display());
    gateway.write_config(&format!("{QUICK}gateway: {{admin_listen: '127.0.0.1:0', {tls}}}\n{names_key}"));
    reloads("rejected", 2.0);
    Pair::new().write(dir.path());
    reloads("applied", 2.0);
    assert_eq!(gateway.metric("gateway_config_last_reload_successful"), 1.0);
}

fn what_needs_a_restart_is_named_and_stays() {
    let gateway = start("gateway: {workers: 1}\n");
    gateway.change_to("gateway: {workers: 2, listen: '127.0.0.1:1', balance: p2c}\nnsq: {embedded: true}\n");
    let waiting =
        get(gateway.listen, "/readyz?verbose").json()["config_reload"]["waiting_for_restart"].clone();
    assert_eq!(waiting, serde_json::json!(["gateway.listen", "gateway.workers", "nsq.embedded"]));
    for key in ["gateway.listen", "gateway.workers", "nsq.embedded"] {
        gateway.process.wait_for(key, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["key"] == key && line["message"].as_str()?.contains("waits for a restart")).then_some(())
        });
    }
    // As it is, that is not a change any more.
    gateway.process.signal("HUP");
    eventually("the count", || (gateway.reloads("unchanged") == 1.0).then_some(()));
    pause(std::time::Duration::from_millis(50));
    assert_eq!(gateway.reloads("applied"), 1.0);
}

/// A key that nobody has thought of here fails: whether it can change at run time must have been decided, and shown.
fn every_key_is_reloaded_or_named() {
    let known: BTreeSet<_> = keys::RELOADED.iter().copied().collect();
    let mut config = Config::default();
    let tls: Config = "gateway: {tls: {cert: a, key: b}}".parse().unwrap();
    config.gateway.tls = tls.gateway.tls;
    let mut unknown = Vec::new();
    for key in config.keys().into_keys() {
        let change = Change { key: key.clone(), old: String::new(), new: String::new() };
        if change.needs_restart() == known.contains(key.as_str()) {
            unknown.push(key);
        }
    }
    assert!(unknown.is_empty(), "neither or both: {unknown:?}");
    let keys = config.keys();
    for key in known {
        assert!(keys.contains_key(key), "there is no {key}");
    }
    // What needs a restart is documented as that.
    let document = fs::read_to_string(tools::source("docs/configuration.md")).unwrap();
    let (_, restart) = document.split_once("need a restart").expect("nothing about restarts");
    for key in nsq_gateway::config::FIXED {
        assert!(restart.contains(&format!("`{key}`")), "{key} is not said to need a restart");
    }
}
