//! What packagers put beside the binaries, made from the definition of the command line.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Command, CommandFactory, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

/// What is not in the clap definition and belongs into a manual page, as roff.
const ENDING: &str = "\
.SH \"EXIT STATUS\"
.TP
0
It did what it was asked to.
.TP
1
Anything else.
.TP
78
There is a fault in the config file.
.SH ENVIRONMENT
.TP
RUST_LOG
Which log lines are written.
.SH SIGNALS
SIGTERM and SIGINT stop it in order; a second one ends it at once, with code 1.
";

/// Hidden commands that both binaries have.
#[derive(Debug, Subcommand)]
pub enum Packaging {
    /// Print what completes the command line in a shell
    #[command(hide = true)]
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the manual page, or that of one command
    #[command(hide = true)]
    Man {
        /// Such as check
        command: Option<String>,
    },
}

impl Packaging {
    /// Prints it.
    pub fn print<A: CommandFactory>(self) -> ExitCode {
        let mut text = Vec::new();
        match self {
            Self::Completions { shell } => {
                let mut command = A::command();
                let name = command.get_name().to_owned();
                clap_complete::generate(shell, &mut command, name, &mut text);
            }
            Self::Man { command } => {
                if let Err(error) = page(A::command(), command.as_deref(), &mut text) {
                    return super::failed(&error);
                }
            }
        }
        match io::stdout().write_all(&text) {
            // Whoever reads only its beginning (`| head`) has what they wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => super::failed(&error),
            _ => ExitCode::SUCCESS,
        }
    }
}

fn page(mut binary: Command, of: Option<&str>, to: &mut Vec<u8>) -> anyhow::Result<()> {
    binary.build(); // the commands get the options that are for all of them
    let page = match of {
        None => binary,
        Some(name) => {
            let command = binary.find_subcommand(name);
            let command = command.with_context(|| format!("there is no command {name}"))?;
            command.clone().version(env!("CARGO_PKG_VERSION"))
        }
    };
    Man::new(page).manual("nsq-gateway").render(to)?;
    to.extend_from_slice(ENDING.as_bytes());
    Ok(())
}
