//! What the documents say, held against what is.

use libtest_mimic::Trial;
use nsq_gateway::config::Config;

use crate::support::{tools, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        the_readmes_config_reference_is_the_defaults,
        the_readmes_config_reference_has_every_key,
        the_readme_names_every_metric,
        nothing_of_a_workplace_is_in_the_repository,
    ]
}

fn readme() -> String {
    std::fs::read_to_string(tools::source("README.md")).unwrap()
}

/// The first YAML block after the heading of the config reference.
fn reference() -> String {
    let readme = readme();
    let (_, section) = readme.split_once("## Config reference").expect("no config reference");
    let (_, block) = section.split_once("```yaml\n").expect("no YAML block");
    block.split("```").next().unwrap().to_owned()
}

fn the_readmes_config_reference_is_the_defaults() {
    let config: Config = reference().parse().unwrap();
    assert_eq!(config, Config::default());
}

fn the_readmes_config_reference_has_every_key() {
    // Every field of the section structs is a key of the same name.
    let reference: serde_yaml::Value = serde_yaml::from_str(&reference()).unwrap();
    for section in ["common", "gateway", "registry", "nsq", "timeouts", "limits"] {
        let source = std::fs::read_to_string(tools::source(&format!("src/config/{section}.rs"))).unwrap();
        let fields = source.split_once("pub struct ").unwrap().1.split_once("}\n").unwrap().0;
        for field in fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")) {
            let key = field.split(':').next().unwrap();
            assert!(
                reference[section].get(key).is_some(),
                "{section}.{key} is not in the README's reference"
            );
        }
    }
}

fn the_readme_names_every_metric() {
    let readme = readme();
    let source = std::fs::read_to_string(tools::source("src/metrics.rs")).unwrap();
    let names: Vec<_> = source
        .split('"')
        .filter(|text| {
            text.starts_with("gateway_") && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        })
        .collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(readme.contains(name), "{name} is not in the README");
    }
}

fn nothing_of_a_workplace_is_in_the_repository() {
    let listed =
        std::process::Command::new("git").args(["ls-files"]).current_dir(tools::source(".")).output();
    let Ok(listed) = listed else { return };
    for file in String::from_utf8_lossy(&listed.stdout).lines() {
        let Ok(text) = std::fs::read_to_string(tools::source(file)) else {
            continue;
        };
        for (n, line) in text.lines().enumerate() {
            let home = ["/ho", "me/"].concat();
            let root = ["/ro", "ot/"].concat();
            assert!(!line.contains(&home) && !line.contains(&root), "{file}:{}: {line}", n + 1);
        }
    }
}
