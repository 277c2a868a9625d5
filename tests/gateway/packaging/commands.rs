//! Completions and manual pages, which come from the definition of the command line.

use std::collections::BTreeSet;
use std::process::Command;

use libtest_mimic::Trial;

use super::{BINARIES, printed, run};
use crate::support::trials;

pub fn trials() -> Vec<Trial> {
    trials![
        bash_completes_commands_and_options,
        every_shell_gets_every_option,
        every_command_has_a_manual_page,
        an_unknown_command_has_no_manual_page,
    ]
}

/// The words in a help text that are options.
fn options(help: &str) -> BTreeSet<String> {
    let words = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter(|word| word.starts_with("--") && word.len() > 2).map(str::to_owned).collect()
}

/// The commands that a binary's help shows.
fn commands(binary: &str) -> Vec<String> {
    let help = printed(binary, &["-h"]);
    let Some((_, commands)) = help.split_once("Commands:\n") else { return Vec::new() };
    let lines = commands.lines().take_while(|line| !line.is_empty());
    lines
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

fn bash_completes_commands_and_options() {
    for (name, binary, line, completed) in [
        ("apiserver", BINARIES[0].1, "apiserver he", "health help"),
        ("apiserver", BINARIES[0].1, "apiserver health --re", "--ready"),
        ("apiserver", BINARIES[0].1, "apiserver --log-format ", "text json"),
        ("dataserver", BINARIES[1].1, "dataserver announce --pl", "--plain"),
    ] {
        // What bash itself does: the words of the line, and which of them is being typed.
        let script = format!(
            "{}\nCOMP_WORDS=({line})\ncase '{line}' in *' ') COMP_WORDS+=('');; esac\n\
             COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n\
             _{name} {name} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             echo \"${{COMPREPLY[@]}}\"\n",
            printed(binary, &["completions", "bash"])
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), completed, "{line}");
    }
}

fn every_shell_gets_every_option() {
    for (_, binary) in BINARIES {
        let mut wanted = options(&printed(binary, &["--help"]));
        for command in commands(binary) {
            wanted.extend(options(&printed(binary, &[&command, "--help"])));
        }
        assert!(wanted.len() >= 4, "{wanted:?}");
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = printed(binary, &["completions", shell]);
            for option in &wanted {
                // fish writes `-l ready`.
                let name = option.trim_start_matches('-');
                assert!(
                    script.contains(option) || script.contains(&format!("-l {name} ")),
                    "{shell}: {option}"
                );
            }
        }
    }
}

fn every_command_has_a_manual_page() {
    for (name, binary) in BINARIES {
        let page = printed(binary, &["man"]);
        assert!(page.contains(&format!(".TH {name} 1 ")), "{page}");
        let commands = commands(binary);
        assert!(!commands.is_empty());
        for command in commands {
            assert!(page.contains(&format!("{name}\\-{command}(1)")), "{command} is not in {page}");
            let page = printed(binary, &["man", &command]);
            assert!(page.contains(&format!(".TH {name}-{command} 1 ")), "{page}");
            for option in options(&printed(binary, &[&command, "--help"])) {
                assert!(page.contains(&option.replace('-', "\\-")), "{option} is not in {page}");
            }
            assert!(page.contains(".SH \"EXIT STATUS\""), "{page}");
        }
    }
}

fn an_unknown_command_has_no_manual_page() {
    for (_, binary) in BINARIES {
        let output = run(binary, &["man", "nothing"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "error: there is no command nothing\n");
    }
}
