use proptest::prelude::*;

use super::*;

/// The file of the Go system, as it is.
const SEED: &str = r#"
name:   nsq
common:
    heart_beat_time: 5
    nsqlookupd:
        name:   s1
        addr:   10.8.0.4
        tcp_port:   4160
        http_port:  4161
    nsqadmin:
        name:   s1
        addr:   10.8.0.4
        port:   4171
    nsqd:
    - 10.8.0.4:4150
    - 10.8.0.5:4150
    - 10.8.0.6:4150
    - 10.8.0.7:4150
    server_topic:   "data_server_addr"
    server_addr:   "127.0.0.1:10001"
"#;

fn faults(yaml: &str) -> Vec<String> {
    match yaml.parse::<Config>() {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config: Config = "".parse().unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.gateway.listen.to_string(), "0.0.0.0:9000");
    assert_eq!(config.registry.ttl.as_secs(), 10);
    assert_eq!(config.common.server_topic, "data_server_addr");
    assert!(config.runs_embedded_nsq());
}

#[test]
fn the_seeds_file_loads_and_means_what_it_meant() {
    let config: Config = SEED.parse().unwrap();
    assert_eq!(config.common.heart_beat_time.as_secs(), 5);
    assert_eq!(
        config.common.nsqlookupd.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.8.0.4:4161"]
    );
    assert_eq!(config.common.nsqd.len(), 4);
    assert_eq!(config.common.nsqd[3].to_string(), "10.8.0.7:4150");
    assert_eq!(config.common.server_topic, "data_server_addr");
    assert_eq!(config.common.server_addr.to_string(), "127.0.0.1:10001");
    assert!(!config.runs_embedded_nsq());
}

#[test]
fn nsqlookupd_is_one_or_a_list() {
    let config: Config = "common: {nsqlookupd: [{addr: a}, {addr: b, http_port: '5161'}]}".parse().unwrap();
    assert_eq!(
        config.common.nsqlookupd.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["a:4161", "b:5161"]
    );
}

#[test]
fn of_an_nsqlookupd_what_is_wrong_is_named() {
    for port in ["0", "'0'"] {
        assert_eq!(
            faults(&format!("common: {{nsqlookupd: {{addr: 10.0.0.1, http_port: {port}}}}}")),
            ["common.nsqlookupd.http_port: 0 is not between 1 and 65535"]
        );
    }
    assert_eq!(
        faults("common: {nsqlookupd: {addr: 'a b', http_port: 70000}}"),
        [
            "common.nsqlookupd.http_port: 70000 is not a port",
            "common.nsqlookupd.addr: \"a b\" is not an IP address or a host name"
        ]
    );
    assert_eq!(
        faults("common: {nsqlookupd: '10.0.0.1:4161'}"),
        ["common.nsqlookupd: \"10.0.0.1:4161\" is not a mapping such as {addr: 10.0.0.1, http_port: 4161}"]
    );
    assert_eq!(
        faults("common: {nsqlookupd: [{addr: a}, b]}"),
        ["common.nsqlookupd[1]: \"b\" is not a mapping such as {addr: 10.0.0.1, http_port: 4161}"]
    );
}

#[test]
fn a_dataservers_address_is_one_that_can_be_announced() {
    for (text, shown) in
        [("db1:10001", "db1:10001"), ("127.0.0.1:0", "127.0.0.1:0"), ("'[::1]:7'", "[::1]:7")]
    {
        let config: Config = format!("common: {{server_addr: {text}}}").parse().unwrap();
        assert_eq!(config.common.server_addr.to_string(), shown);
    }
    assert_eq!(
        faults("common: {server_addr: '0.0.0.0:10001'}"),
        ["common.server_addr: \"0.0.0.0:10001\" is unspecified, multicast, broadcast or link-local"]
    );
}

#[test]
fn every_fault_is_reported_with_its_path() {
    let yaml = "
nam: x
common:
  heart_beat_time: 0
  nsqlookupd: [{http_port: 4161}, {addr: a b}]
  nsqd: ['a:1', 'b', 7]
  server_topic: 'a b'
gateway:
  listen: abc
  workers: -1
  balance: least
  upstream_protocol: h2
  admin_allow: [loopback, 10.0.0.0/33]
  tsl: {}
registry: {ttl: 10, sweep_interval: 0s}
nsq: {embedded: maybe, channel: 'a/b', embedded_listen: {tcp: 1}}
timeouts: 5
limits: {headers: many}
log: {filter: 'nsq=loud'}
";
    assert_eq!(
        faults(yaml),
        [
            "common.heart_beat_time: 0 is not between 1 and 3600",
            "common.nsqlookupd[0].addr: is missing",
            "common.nsqlookupd[1].addr: \"a b\" is not an IP address or a host name",
            "common.nsqd[1]: \"b\" is not HOST:PORT",
            "common.nsqd[2]: 7 is not HOST:PORT",
            "common.server_topic: \"a b\" is not a topic name (1 to 64 of letters, digits, . _ -, and an optional #ephemeral)",
            "gateway.listen: \"abc\" is not HOST:PORT",
            "gateway.workers: -1 is not a whole number",
            "gateway.balance: \"least\" is not random or p2c",
            "gateway.upstream_protocol: \"h2\" is not http1 or h2c",
            "gateway.admin_allow[1]: \"10.0.0.0/33\" is not loopback, private, an IP address or a network such as 10.0.0.0/8",
            "gateway.tsl: is not a known key",
            "registry.ttl: 10 is not a duration such as 10s or 500ms",
            "registry.sweep_interval: 0s is not between 10ms and 10m",
            "nsq.channel: \"a/b\" is not a channel name (1 to 64 of letters, digits, . _ -, and an optional #ephemeral)",
            "nsq.embedded: \"maybe\" is not auto, true or false",
            "nsq.embedded_listen.tcp: 1 is not HOST:PORT",
            "timeouts: 5 is not a mapping",
            "limits.headers: \"many\" is not a whole number",
            "log.filter: \"nsq=loud\" is not a filter: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5",
            "nam: is not a known key",
        ]
    );
}

#[test]
fn heartbeats_have_one_key_or_a_few() {
    let of_files = |files: &str| faults(&format!("nsq: {{heartbeat_key_file: {files}}}"));
    for (files, count) in [("a", 1), ("[]", 0), ("[a]", 1), ("[a, b, c, d]", 4)] {
        assert!(of_files(files).is_empty());
        let config: Config = format!("nsq: {{heartbeat_key_file: {files}}}").parse().unwrap();
        // There are no such files.
        assert_eq!(
            config.nsq.heartbeat_keys().map_or_else(|faults| faults.iter().count(), |keys| keys.len()),
            count
        );
    }
    assert_eq!(of_files("[a, b, c, d, e]"), ["nsq.heartbeat_key_file: names more than 4 files"]);
    assert_eq!(of_files("[a, 7]"), ["nsq.heartbeat_key_file[1]: 7 is not text"]);
}

#[test]
fn what_is_not_yaml_is_one_fault_that_names_the_place() {
    let faults = faults("gateway:\n  listen: [\n");
    assert_eq!(faults.len(), 1);
    assert!(faults[0].contains("line"), "{faults:?}");
    assert!(!super::tests::faults("gateway: {listen: a, listen: b}").is_empty());
}

#[test]
fn keys_that_contradict_each_other_are_faults() {
    assert_eq!(
        faults("gateway: {listen: '127.0.0.1:9000', admin_listen: '127.0.0.1:9000'}"),
        ["gateway.admin_listen: is the same as gateway.listen"]
    );
    assert_eq!(faults("nsq: {embedded: false}").len(), 1);
    assert_eq!(
        faults("registry: {ttl: 500ms, snapshot: set.json}"),
        ["registry.snapshot_interval: is longer than 6 ttl, after which a snapshot is not read"]
    );
    assert!(faults("registry: {ttl: 500ms}").is_empty(), "none is kept");
}

#[test]
fn networks_are_names_addresses_and_cidrs() {
    let allow = |yaml: &str, ip: &str| {
        let config: Config = format!("gateway: {{admin_allow: {yaml}}}").parse().unwrap();
        config.gateway.admin_allow.contains(ip.parse().unwrap())
    };
    assert!(allow("null", "127.0.0.1") && allow("null", "::1") && allow("null", "::ffff:10.1.2.3"));
    assert!(!allow("null", "8.8.8.8"));
    assert!(allow("[8.8.8.0/24]", "8.8.8.8") && !allow("[8.8.8.0/24]", "127.0.0.1"));
    assert!(allow("8.8.8.8", "8.8.8.8") && !allow("[]", "127.0.0.1"));
    let trusted = |yaml: &str| {
        let config: Config = yaml.parse().unwrap();
        config.gateway.trusted_proxies.contains("10.1.2.3".parse().unwrap())
    };
    assert!(!trusted("") && trusted("gateway: {trusted_proxies: private}"));
    assert_eq!(faults("gateway: {trusted_proxies: [loopback, all]}").len(), 1);
}

#[test]
fn the_proxy_protocol_is_for_nobody_everybody_or_some_networks() {
    let senders = |yaml: &str| {
        let config: Config = format!("gateway: {{proxy_protocol: {yaml}}}").parse().unwrap();
        config.gateway.proxy_protocol
    };
    assert_eq!((senders("false"), senders("null")), (None, None));
    let all = senders("true").unwrap();
    for ip in ["8.8.8.8", "::1", "::ffff:8.8.8.8", "2001:db8::1", "0.0.0.0"] {
        assert!(all.contains(ip.parse().unwrap()), "{ip}");
    }
    for yaml in ["10.0.0.0/8", "[loopback, 10.0.0.0/8]"] {
        let some = senders(yaml).unwrap();
        assert!(some.contains("10.1.2.3".parse().unwrap()) && !some.contains("8.8.8.8".parse().unwrap()));
    }
    assert_eq!(
        faults("gateway: {proxy_protocol: []}"),
        ["gateway.proxy_protocol: names nobody who may connect: false turns it off"]
    );
    assert_eq!(faults("gateway: {proxy_protocol: [true, 10.0.0.1, 1]}").len(), 2);
}

#[test]
fn tls_is_a_certificate_and_its_key() {
    let config: Config = "gateway: {tls: {cert: a.pem, key: b.pem, check_interval: 1s}}".parse().unwrap();
    let tls = config.gateway.tls.unwrap();
    assert_eq!((tls.cert.to_str(), tls.key.to_str()), (Some("a.pem"), Some("b.pem")));
    assert_eq!(tls.check_interval.as_secs(), 1);
    assert!("gateway: {tls: {}}".parse::<Config>().unwrap().gateway.tls.is_none());
    assert_eq!(
        faults("gateway: {tls: {key: b.pem}}"),
        ["gateway.tls.cert: is missing: a certificate and its key go together"]
    );
    assert_eq!(faults("gateway: {tls: {cert: 1, check_interval: 1ms, x: 1}}").len(), 3);
}

#[test]
fn the_files_in_conf_load() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let quick_start = Config::load(&conf.join("config.yaml")).unwrap();
    assert!(quick_start.runs_embedded_nsq());
    let cluster = Config::load(&conf.join("cluster.yaml")).unwrap();
    let seed: Config = SEED.parse().unwrap();
    assert_eq!(cluster, seed);
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(&dir.path().join("no.yaml")).unwrap_err().to_string();
    assert!(missing.contains("cannot be read"), "{missing}");
    let huge = dir.path().join("huge.yaml");
    fs::write(&huge, "#".repeat(2 << 20)).unwrap();
    assert!(Config::load(&huge).unwrap_err().to_string().contains("larger"));
}

proptest! {
    #[test]
    fn any_text_is_a_config_or_faults(yaml in "(?s).{0,200}") {
        let _ = yaml.parse::<Config>();
    }

    #[test]
    fn any_value_is_taken_or_a_fault_of_its_key(
        key in prop::sample::select(vec!["gateway.listen", "registry.ttl", "nsq.channel", "limits.headers",
                                         "common.nsqd", "common.nsqlookupd", "timeouts.drain", "gateway.admin_allow",
                                         "gateway.trusted_proxies", "gateway.proxy_protocol", "gateway.tls"]),
        value in "[ -~]{0,30}",
    ) {
        let (section, leaf) = key.split_once('.').unwrap();
        let yaml = format!("{section}:\n  {leaf}: {}\n", serde_yaml::to_string(&value).unwrap().trim());
        for fault in faults(&yaml) {
            prop_assert!(fault.starts_with(key) || fault.starts_with("is not YAML"), "{}", fault);
        }
    }
}
