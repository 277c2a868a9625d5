//! Heartbeats that must be signed: who is taken, who is refused and counted, and what a bad key file says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use libtest_mimic::Trial;
use nsq_gateway::heartbeat::Heartbeat;
use nsq_gateway::key::Key;
use nsq_gateway::presence::Incarnation;
use tempfile::TempDir;

use crate::support::{
    Apiserver, Broker, Cluster, DataserverProcess, PATIENT, Process, Stub, eventually, get, tools,
    trial_with, trials,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        a_dataserver_on_an_embedded_nsq_is_believed,
        what_is_not_signed_well_is_refused_and_counted,
        without_a_key_a_signature_means_nothing,
        while_keys_change_heartbeats_of_either_are_taken,
        a_bad_key_file_is_a_fault_of_its_key_path,
        the_plain_form_cannot_be_signed,
    ];
    let name = "signed::a_dataserver_on_a_real_nsq_is_believed";
    trials.push(trial_with(name, &tools::NSQD, || a_dataserver_is_believed(Broker::Real)));
    let name = "signed::the_documents_python_is_believed";
    trials.push(trial_with(name, &tools::PYTHON3, the_documents_python_is_believed));
    trials
}

const SECRET: &str = "correct horse battery staple\n";

/// A folder with a key file in it.
fn key_file(secret: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("heartbeat.key");
    std::fs::write(&file, secret).unwrap();
    (dir, file)
}

fn asks_for(key: &Path) -> String {
    format!("nsq: {{heartbeat_key_file: '{}', clock_tolerance: 5s}}\n", key.display())
}

#[track_caller]
fn wait_for_count(gateway: &Apiserver, result: &str, count: f64) {
    let series = format!("gateway_heartbeats_total{{result=\"{result}\"}}");
    eventually(&format!("{count} {result}"), || {
        ((gateway.metric(&series) - count).abs() < 0.1).then_some(())
    });
}

fn a_dataserver_on_an_embedded_nsq_is_believed() {
    a_dataserver_is_believed(Broker::Embedded);
}

fn a_dataserver_is_believed(broker: Broker) {
    let (_dir, key) = key_file(SECRET);
    let cluster = Cluster::start(broker, 2);
    let more = "registry: {ttl: 3s, sweep_interval: 200ms}\n";
    let gateway = Apiserver::start(&cluster.config(false, &format!("{more}{}", asks_for(&key))));
    let dataserver = DataserverProcess::start(&cluster.config(false, &asks_for(&key)));
    let _unsigned = DataserverProcess::start(&cluster.config(false, ""));
    gateway.wait_for_live(&[&dataserver.addr]);
    eventually("an answer", || (get(gateway.listen, "/").status == 200).then_some(()));
    // Longer than the TTL, on either nsqd.
    eventually("more heartbeats", || {
        let refreshed = gateway.metric("gateway_heartbeats_total{result=\"refreshed\"}");
        (refreshed >= 5.0).then_some(())
    });
    eventually("the unsigned ones to be counted", || {
        (gateway.metric("gateway_heartbeats_total{result=\"refused_unsigned\"}") >= 3.0).then_some(())
    });
    assert_eq!(gateway.live(), [dataserver.addr.as_str()]);
    for output in [gateway.process.output(), dataserver.process.output()] {
        assert!(!output.contains(SECRET.trim()), "{output}");
    }
}

fn now_millis() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

fn what_is_not_signed_well_is_refused_and_counted() {
    let (_dir, key_path) = key_file(SECRET);
    let (_other_dir, other) = key_file("another key, as long\n");
    let [key, other] = [key_path.as_path(), &other].map(|file| Key::load(file).unwrap());
    let gateway = Apiserver::start(&format!("{PATIENT}{}", asks_for(&key_path)));
    let stub = Stub::ok("signed");
    let heartbeat = |seq| Heartbeat {
        incarnation: Some(Incarnation { id: "x".parse().unwrap(), seq }),
        ..Heartbeat::plain(stub.addr().to_string().parse().unwrap())
    };
    let signed = |seq, key: &Key, time| String::from_utf8(heartbeat(seq).encode_signed(key, time)).unwrap();
    let now = now_millis();
    let hour = 3_600_000;
    let good = signed(5, &key, now);

    gateway.heartbeat(&stub.addr().to_string());
    gateway.heartbeat(&String::from_utf8(heartbeat(9).encode()).unwrap());
    wait_for_count(&gateway, "refused_unsigned", 2.0);
    gateway.heartbeat(&signed(9, &other, now));
    // A life that is turned into a death, and one that is made to last.
    for (said, forged) in
        [("\"up\"", "\"down\""), ("\"seq\":5", "\"seq\":6"), (&now.to_string(), &(now + 1).to_string())]
    {
        assert!(good.contains(said), "{good}");
        gateway.heartbeat(&good.replace(said, forged));
    }
    wait_for_count(&gateway, "refused_signature", 4.0);
    gateway.heartbeat(&signed(9, &key, now - hour));
    gateway.heartbeat(&signed(9, &key, now + hour));
    wait_for_count(&gateway, "refused_clock", 2.0);
    assert_eq!(gateway.live(), Vec::<String>::new());

    // None of these has used up a number.
    gateway.heartbeat(&good);
    gateway.wait_for_live(&[&stub.addr().to_string()]);
    assert_eq!(get(gateway.listen, "/").text(), "signed");
    gateway.heartbeat(&good);
    gateway.heartbeat(&signed(4, &key, now));
    wait_for_count(&gateway, "refused_replayed", 2.0);
    gateway.heartbeat(&signed(6, &key, now_millis()));
    wait_for_count(&gateway, "refreshed", 1.0);
    for reason in ["refused_unsigned", "refused_signature", "refused_clock", "refused_replayed"] {
        assert_eq!(gateway.process.count(&format!("\"reason\":\"{reason}\"")), 1, "a line a minute");
    }
}

fn without_a_key_a_signature_means_nothing() {
    let gateway = Apiserver::start(PATIENT);
    let stub = Stub::ok("");
    gateway.heartbeat(&format!(r#"{{"addr":"{}","time":"noon","sig":7}}"#, stub.addr()));
    gateway.wait_for_live(&[&stub.addr().to_string()]);
}

fn the_documents_python_is_believed() {
    let document = std::fs::read_to_string(tools::source("docs/heartbeats.md")).unwrap();
    let (_, section) = document.split_once("## Signed heartbeats").expect("no such section");
    let program = section.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    let (dir, key) = key_file(SECRET);
    let gateway = Apiserver::start(&format!("{PATIENT}{}", asks_for(&key)));
    let addr = Stub::refusing().to_string();
    assert!(program.contains("10.0.0.7:80"), "{program}");
    let python = Command::new(tools::PYTHON3.as_ref().unwrap())
        .args(["-c", &program.replace("10.0.0.7:80", &addr)])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    gateway.heartbeat(&String::from_utf8(python.stdout).unwrap());
    wait_for_count(&gateway, "joined", 1.0);
}

/// First the gateways take both, then the dataservers sign with the new one, then the gateways forget the old one.
fn while_keys_change_heartbeats_of_either_are_taken() {
    let ((_dir, old), (_other_dir, new)) = (key_file(SECRET), key_file("another key, as long\n"));
    let asks_for =
        |keys: &[&PathBuf]| format!("nsq: {{heartbeat_key_file: {keys:?}, clock_tolerance: 5s}}\n");
    let gateway = Apiserver::start(&format!("{PATIENT}{}", asks_for(&[&old, &new])));
    let announces = |keys: &[&PathBuf]| {
        let at = format!("common: {{heart_beat_time: 1, nsqd: ['{}']}}\n", gateway.nsq.unwrap()[0]);
        DataserverProcess::start(&format!("{at}{}", asks_for(keys)))
    };
    let (before, after, other_first) = (announces(&[&old]), announces(&[&new]), announces(&[&new, &old]));
    gateway.wait_for_live(&[&before.addr, &after.addr, &other_first.addr]);
    let only_new = Apiserver::start(&format!(
        "common: {{nsqd: ['{}']}}\n{PATIENT}{}",
        gateway.nsq.unwrap()[0],
        asks_for(&[&new])
    ));
    only_new.wait_for_live(&[&after.addr, &other_first.addr]);
    eventually("the old key to be refused", || {
        (only_new.metric("gateway_heartbeats_total{result=\"refused_signature\"}") >= 1.0).then_some(())
    });
}

fn a_bad_key_file_is_a_fault_of_its_key_path() {
    let (dir, key) = key_file("too short\n");
    let config = dir.path().join("config.yaml");
    for (key, why) in [
        (key, "holds a key of less than 16 bytes"),
        (dir.path().join("none"), "cannot be read: No such file or directory (os error 2)"),
        (dir.path().to_owned(), "is not a file"),
    ] {
        std::fs::write(&config, asks_for(&key)).unwrap();
        let expected =
            format!("{}:1: nsq.heartbeat_key_file: \"{}\" {why}\n", config.display(), key.display());
        let apiserver = || Command::new(env!("CARGO_BIN_EXE_apiserver"));
        let dataserver = || Command::new(env!("CARGO_BIN_EXE_dataserver"));
        for (mut command, args) in [
            (apiserver(), &["check"][..]),
            (apiserver(), &[]),
            (dataserver(), &[]),
            (dataserver(), &["announce", "--addr", "127.0.0.1:1"]),
        ] {
            let output = command.args(args).arg("--config").arg(&config).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), said.as_ref()), (Some(78), expected.as_str()), "{args:?}");
        }
    }
}

fn the_plain_form_cannot_be_signed() {
    let (dir, key) = key_file(SECRET);
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, asks_for(&key)).unwrap();
    for args in [&["--addr", "127.0.0.1:0"][..], &["announce", "--addr", "127.0.0.1:1"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dataserver"));
        let mut process = Process::start(command.args(args).arg("--plain").arg("--config").arg(&config));
        assert_eq!(process.wait().code(), Some(1));
        assert!(process.output().contains("the plain form cannot be signed"), "{}", process.output());
    }
}
