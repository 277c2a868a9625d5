//! A config that is changed under load: in every way, broken, and a thousand times.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use crate::findings::{Drilled, finding, none};
use crate::fleet::Fleet;
use crate::load::Load;
use crate::support::{Apiserver, pause, within};

/// How many times the config is read again; the first fifth is for the memory to settle.
const RELOADS: usize = 1_000;

/// Bytes that so many reloads may leave behind.
const GROWN: f64 = 8.0 * 1024.0 * 1024.0;

fn reloads(gateway: &Apiserver, result: &str) -> f64 {
    gateway.metric(&format!("gateway_config_reloads_total{{result=\"{result}\"}}"))
}

/// Changes the config and waits until that came to this result.
#[track_caller]
fn until_it_is(gateway: &Apiserver, result: &str, change: impl FnOnce()) {
    let before = reloads(gateway, result);
    change();
    within(Duration::from_secs(20), result, || (reloads(gateway, result) > before).then_some(()));
}

fn rename_over(file: &Path, text: &str) {
    let new = file.with_file_name("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// As Kubernetes does it: what the file leads to is in a folder, and a link to that is replaced.
fn swap_link(file: &Path, text: &str, n: usize) {
    let dir = file.parent().unwrap();
    let version = dir.join(format!("..{n}"));
    fs::create_dir(&version).unwrap();
    fs::write(version.join("config.yaml"), text).unwrap();
    symlink(version.file_name().unwrap(), dir.join("..tmp")).unwrap();
    fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
    if !file.is_symlink() {
        symlink("..data/config.yaml", dir.join("link")).unwrap();
        fs::rename(dir.join("link"), file).unwrap();
    }
}

pub fn changed_in_every_way() -> Drilled {
    let fleet = Fleet::start(3, "reload: {check_interval: 50ms}\n");
    let (gateway, file) = (&fleet.gateway, &fleet.gateway.config);
    let base = fs::read_to_string(file).unwrap();
    let good = |n: usize| base.replace("ttl: 2500ms", &format!("ttl: {}ms", 2500 + n));
    let load = Load::gets_and_posts(gateway.listen, 200);
    load.go_on_for(100);
    let mut n = 0;
    for _ in 0..3 {
        until_it_is(gateway, "rejected", || fs::write(file, base.replace("2500ms", "soon")).unwrap());
        until_it_is(gateway, "rejected", || fs::write(file, "").unwrap());
        until_it_is(gateway, "rejected", || fs::write(file, &base[..base.find("ttl").unwrap() + 2]).unwrap());
        until_it_is(gateway, "rejected", || fs::remove_file(file).unwrap());
        n += 1;
        until_it_is(gateway, "applied", || fs::write(file, good(n)).unwrap());
        n += 1;
        until_it_is(gateway, "applied", || rename_over(file, &good(n)));
        for _ in 0..2 {
            n += 1;
            until_it_is(gateway, "applied", || swap_link(file, &good(n), n));
        }
        fs::remove_file(file).unwrap();
        fs::write(file, good(n)).unwrap();
    }
    load.go_on_for(100);
    Ok(vec![
        load.stop().none_failed(),
        finding(format!("{n} good ones taken, {} bad ones not", reloads(gateway, "rejected")), true),
        none("evicted", fleet.evicted()),
    ])
}

/// Every second one is broken; every fiftieth makes new links to NSQ.
pub fn a_thousand_times() -> Drilled {
    let fleet = Fleet::start(3, "reload: {check_interval: 1h}\n");
    let (gateway, file) = (&fleet.gateway, &fleet.gateway.config);
    let base = fs::read_to_string(file).unwrap();
    let memory = || gateway.metric("process_resident_memory_bytes");
    let load = Load::gets_and_posts(gateway.listen, 200);
    load.go_on_for(200);
    let mut settled = 0.0;
    for n in 0..RELOADS {
        if n == RELOADS / 5 {
            settled = memory();
        }
        let result = if n % 2 == 0 { "applied" } else { "rejected" };
        until_it_is(gateway, result, || {
            let lookup = format!("lookup_interval: {}ms", 300 + n / 50);
            let text = if n % 2 == 0 {
                base.replace("2500ms", &format!("{}ms", 2501 + n)).replace("lookup_interval: 300ms", &lookup)
            } else {
                base.replace("2500ms", "soon")
            };
            fs::write(file, text).unwrap();
            gateway.process.signal("HUP");
        });
    }
    pause(Duration::from_secs(1));
    let grown = memory() - settled;
    let mib = grown / f64::from(1 << 20);
    Ok(vec![
        load.stop().none_failed(),
        finding(format!("{} taken, {} not", reloads(gateway, "applied"), reloads(gateway, "rejected")), true),
        finding(format!("memory grew by {mib:.1} MiB (≤ 8)"), grown <= GROWN),
        none("evicted", fleet.evicted()),
    ])
}
