//! The command line: what is printed, and the exit codes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::{
    Apiserver, DataserverProcess, EndlessLookup, PATIENT, Process, Stub, connect, eventually, pause, request,
    tools, trial_with, trials, within,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        help_and_version_end_well,
        an_unknown_flag_ends_with_1,
        check_accepts_the_files_in_conf,
        check_prints_every_fault_and_ends_with_78,
        check_says_where_a_snapshot_cannot_be_written,
        check_says_what_the_timings_mean_as_the_documents_show,
        check_warns_of_nonsense_and_ends_well,
        who_reads_what_check_says_may_go_away,
        the_gateway_does_not_start_with_a_bad_config,
        a_named_file_must_exist,
        a_port_in_use_is_named_with_the_key_that_moves_it,
        a_second_gateway_does_not_share_the_port_of_the_first,
        of_gateways_that_start_at_once_one_gets_the_port,
        a_dataservers_port_in_use_is_named,
        a_gateway_stops_on_sigterm_and_sigint,
        a_second_signal_ends_a_gateway_at_once,
        who_reads_the_log_may_go_away,
    ];
    trials.push(trial_with(
        "cli::a_name_that_is_still_looked_up_does_not_hold_up_the_end",
        &tools::ENDLESS_LOOKUP,
        a_name_that_is_still_looked_up,
    ));
    trials
}

fn apiserver(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apiserver")).args(args).current_dir(tools::source(".")).output().unwrap()
}

fn dataserver(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dataserver")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn help_and_version_end_well() {
    for args in [&["--help"][..], &["--version"], &["demo", "--help"], &["check", "--help"]] {
        assert_eq!(apiserver(args).status.code(), Some(0), "apiserver {args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["announce", "--help"]] {
        assert_eq!(dataserver(args).status.code(), Some(0), "dataserver {args:?}");
    }
    assert!(String::from_utf8_lossy(&apiserver(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

fn an_unknown_flag_ends_with_1() {
    assert_eq!(apiserver(&["--no-such-flag"]).status.code(), Some(1));
    assert_eq!(dataserver(&["announce", "--addr", "0.0.0.0:1"]).status.code(), Some(1));
}

fn check_accepts_the_files_in_conf() {
    for file in ["conf/config.yaml", "conf/cluster.yaml"] {
        let output = apiserver(&["check", "--config", file]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).starts_with(&format!("{file}: ok\n- A dataserver")), "{}", stdout(&output));
        assert_eq!(stderr(&output), "", "no warnings");
    }
}

fn check_says_what_the_timings_mean_as_the_documents_show() {
    let document = std::fs::read_to_string(tools::source("docs/operations.md")).unwrap();
    let (_, shown) = document.split_once("$ apiserver check\n").expect("no example");
    let shown = shown.split("```").next().unwrap();
    assert_eq!(stdout(&apiserver(&["check"])), shown);
}

fn check_warns_of_nonsense_and_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "registry: {ttl: 3s}\ntimeouts: {response_head: 10ms}\n");
    let output = apiserver(&["check", "--config", &file]);
    assert_eq!(output.status.code(), Some(0));
    let keys: Vec<_> = stderr(&output)
        .lines()
        .map(|line| {
            line.strip_prefix(&format!("{file}: warning: "))
                .expect(line)
                .split(':')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    let expected = ["registry.ttl", "nsq.silence_timeout", "nsq.connect_timeout", "timeouts.response_head"];
    assert_eq!(keys, expected, "{}", stderr(&output));
    assert!(stdout(&output).contains("one that falls silent after 3s"), "{}", stdout(&output));
}

/// As `apiserver check | head -1` does.
fn who_reads_what_check_says_may_go_away() {
    let dir = tempfile::tempdir().unwrap();
    for (config, code) in [("registry: {ttl: 3s}\n", 0), ("registry: {ttl: soon}\n", 78)] {
        let file = write(dir.path(), config);
        let [stdout, stderr] = [(); 2].map(|()| {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer
        });
        let mut check = Command::new(env!("CARGO_BIN_EXE_apiserver"));
        check.args(["check", "--config", &file]).stdout(stdout).stderr(stderr);
        assert_eq!(check.status().unwrap().code(), Some(code), "{config}");
    }
}

fn write(dir: &Path, config: &str) -> String {
    let file = dir.join("config.yaml");
    std::fs::write(&file, config).unwrap();
    file.to_str().unwrap().to_owned()
}

fn check_prints_every_fault_and_ends_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "gateway: {listen: abc, x: 1}\nregistry: {ttl: soon}\n");
    let output = apiserver(&["check", "--config", &file]);
    assert_eq!(output.status.code(), Some(78));
    let expected = format!(
        "{file}:1: gateway.listen: \"abc\" is not HOST:PORT\n\
         {file}:1: gateway.x: is not a known key\n\
         {file}:2: registry.ttl: \"soon\" is not a duration such as 10s or 500ms\n"
    );
    assert_eq!(stderr(&output), expected);
}

fn check_says_where_a_snapshot_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |place: &str| dir.path().join(place).to_str().unwrap().to_owned();
    let check = |snapshot: &str| {
        let file = write(dir.path(), &format!("registry: {{snapshot: '{snapshot}'}}\n"));
        let output = apiserver(&["check", "--config", &file]);
        (output.status.code(), stderr(&output))
    };
    assert_eq!(check(&at("set.json")), (Some(0), String::new()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "it was only tried");
    for (place, why) in
        [("no/set.json", "No such file"), (".", "it is not a file"), ("x/..", "it names no file")]
    {
        let (code, said) = check(&at(place));
        assert_eq!(code, Some(78), "{place}: {said}");
        assert!(
            said.contains(&format!("registry.snapshot: {} cannot be written: {why}", at(place))),
            "{said}"
        );
    }
}

fn the_gateway_does_not_start_with_a_bad_config() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "gateway: {listen: abc}\n");
    for output in [apiserver(&["--config", &file]), dataserver(&["--config", &file])] {
        assert_eq!(output.status.code(), Some(78));
        assert_eq!(stderr(&output), format!("{file}:1: gateway.listen: \"abc\" is not HOST:PORT\n"));
    }
}

fn a_named_file_must_exist() {
    let output = apiserver(&["--config", "no/such/file.yaml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("no/such/file.yaml: cannot be read"), "{}", stderr(&output));
}

/// Starts a gateway that must fail, and returns what it said.
fn fails_to_start(config: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = apiserver(&["--config", &write(dir.path(), config)]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

fn a_port_in_use_is_named_with_the_key_that_moves_it() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let free = "127.0.0.1:0";
    for key in ["gateway.listen", "gateway.admin_listen", "tcp", "http", "lookup"] {
        let at = |name| {
            if key.ends_with(name) { taken.to_string() } else { free.to_owned() }
        };
        let config = format!(
            "gateway: {{listen: '{}', admin_listen: '{}'}}\n\
             nsq: {{embedded_listen: {{tcp: '{}', http: '{}', lookup: '{}'}}}}\n",
            at("gateway.listen"),
            at("admin_listen"),
            at("tcp"),
            at("http"),
            at("lookup")
        );
        let said = fails_to_start(&config);
        let key =
            if key.starts_with("gateway") { key.to_owned() } else { format!("nsq.embedded_listen.{key}") };
        assert!(said.contains(&taken.to_string()), "{said}");
        assert!(said.contains(&format!("set {key} to move it")), "{said}");
    }
}

fn a_second_gateway_does_not_share_the_port_of_the_first() {
    let first = Apiserver::start("gateway: {workers: 2}\n");
    let [tcp, http, lookup] = first.nsq.unwrap();
    let free = "127.0.0.1:0";
    for (listen, nsq) in [
        (first.listen.to_string(), [free.to_owned(), free.to_owned(), free.to_owned()]),
        (free.to_owned(), [tcp.to_string(), free.to_owned(), free.to_owned()]),
        (free.to_owned(), [free.to_owned(), http.to_string(), free.to_owned()]),
        (free.to_owned(), [free.to_owned(), free.to_owned(), lookup.to_string()]),
    ] {
        let said = fails_to_start(&format!(
            "gateway: {{listen: '{listen}', workers: 2}}\n\
             nsq: {{embedded_listen: {{tcp: '{}', http: '{}', lookup: '{}'}}}}\n",
            nsq[0], nsq[1], nsq[2]
        ));
        assert!(said.contains("in use"), "{said}");
    }
}

fn of_gateways_that_start_at_once_one_gets_the_port() {
    for _ in 0..5 {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0";
        let nsq = format!("nsq: {{embedded_listen: {{tcp: '{any}', http: '{any}', lookup: '{any}'}}}}\n");
        let file = write(dir.path(), &format!("gateway: {{listen: '{free}', workers: 2}}\n{nsq}"));
        let start = || Process::start(&mut Apiserver::command(Path::new(&file)));
        let mut gateways: Vec<_> = (0..4).map(|_| start()).collect();
        // Each either listens or has ended.
        for gateway in &gateways {
            gateway.wait_for("outcome", |line| {
                (line.contains("gateway listens") || line.contains("cannot listen")).then_some(())
            });
        }
        let listening = gateways.iter().filter(|gateway| gateway.count("gateway listens") > 0).count();
        assert_eq!(listening, 1);
        gateways.clear();
    }
}

fn a_dataservers_port_in_use_is_named() {
    let first = DataserverProcess::start("");
    let output = dataserver(&["--addr", &first.addr]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(&first.addr) && stderr(&output).contains("--addr"),
        "{}",
        stderr(&output)
    );
    // A gateway does not take it either, nor a dataserver the gateway's.
    let said = fails_to_start(&format!("gateway: {{listen: '{}'}}\n", first.addr));
    assert!(said.contains("gateway.listen"), "{said}");
    let gateway = Apiserver::start("");
    let output = dataserver(&["--addr", &gateway.listen.to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

fn a_gateway_stops_on_sigterm_and_sigint() {
    for signal in ["TERM", "INT"] {
        let mut gateway = Apiserver::start("");
        gateway.process.signal(signal);
        assert_eq!(gateway.process.wait().code(), Some(0));
        let output = gateway.process.output();
        assert!(output.contains("stopped") && !output.contains("panicked"), "{output}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_dataserver"));
    let mut dataserver = Process::start(command.args(["--addr", "127.0.0.1:0"]));
    dataserver.wait_for("listener", |line| line.contains("dataserver listens").then_some(()));
    dataserver.signal("TERM");
    assert_eq!(dataserver.wait().code(), Some(0));
}

fn a_second_signal_ends_a_gateway_at_once() {
    let mut gateway = Apiserver::start(PATIENT);
    let stub = Stub::raw(|stream| {
        let _ = std::io::copy(&mut &stream, &mut std::io::sink());
    });
    gateway.announce(&[stub.addr()]);
    let mut stuck = connect(gateway.listen);
    stuck.write_all(&request("GET /", &[], b"")).unwrap();
    eventually("the request to arrive", || (stub.connections() > 0).then_some(()));
    gateway.process.signal("TERM");
    gateway.process.wait_for("drain", |line| line.contains("draining").then_some(()));
    assert!(gateway.process.is_running());
    gateway.process.signal("TERM");
    let begun = Instant::now();
    assert_eq!(gateway.process.wait().code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

fn a_name_that_is_still_looked_up() {
    let lookup = EndlessLookup::new();
    let config =
        format!("common: {{nsqlookupd: {{addr: {}}}}}\ntimeouts: {{drain: 1s}}\n", EndlessLookup::NAME);
    let mut gateway = Apiserver::start_with(&config, |command| lookup.with(command));
    let _lasts = eventually("the lookup", || lookup.begun());
    gateway.process.signal("TERM");
    gateway.process.wait_for("its last line", |line| line.contains("\"stopped\"").then_some(()));
    within(Duration::from_secs(5), "its end", || (!gateway.process.is_running()).then_some(()));
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// A pipe that nobody reads any more fails each line of the log, and nothing else.
fn who_reads_the_log_may_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0";
    let nsq = format!("nsq: {{embedded_listen: {{tcp: '{any}', http: '{any}', lookup: '{any}'}}}}\n");
    let file = write(dir.path(), &format!("gateway: {{listen: '{any}'}}\ntimeouts: {{leave: 100ms}}\n{nsq}"));
    let mut dataserver = Command::new(env!("CARGO_BIN_EXE_dataserver"));
    dataserver.args(["--addr", any, "--config", &file]);
    for mut command in [Apiserver::command(Path::new(&file)), dataserver] {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line.contains("gateway listens") || line.contains("dataserver listens")),
            "{command:?} has ended"
        );
        drop(lines);
        let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(kill.success());
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            pause(Duration::from_millis(10));
        }
        let _ = child.kill();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command:?}");
    }
}
