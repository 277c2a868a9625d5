//! `apiserver`: the gateway.

#![allow(clippy::doc_markdown, reason = "the comments on arguments are what --help prints")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use nsq_gateway::addr::Addr;
use nsq_gateway::app::{self, App, Source, Start};
use nsq_gateway::cli;
use nsq_gateway::config::{Config, DEFAULT_PATH};
use nsq_gateway::health::Listener;
use nsq_gateway::systemd;
use nsq_gateway::telemetry::{Log, LogFormat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An HTTP gateway that always knows which dataservers are alive.
#[derive(Parser)]
#[command(name = "apiserver", version)]
struct Args {
    /// The config file; conf/config.yaml if there is one, else the defaults
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// How log lines look; they go to stderr, filtered by RUST_LOG or log.filter
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    /// Take over from the gateway that listens where this one is to: its sockets, its queues, its live set; then it leaves
    #[arg(long)]
    takeover: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run an embedded NSQ, three sample dataservers and the gateway in one process
    Demo,
    /// Read and validate the config file, and print every fault; if there is none, what the timings mean
    Check,
    /// Ask the gateway that runs with this config file on this machine how it is: code 0 is well, 1 is not
    Health(Health),
    #[command(flatten)]
    Packaging(cli::Packaging),
}

#[derive(clap::Args)]
struct Health {
    /// Ask whether it may be sent traffic (/readyz), not only whether it runs (/healthz)
    #[arg(long)]
    ready: bool,
    /// Ask there, over HTTP in the clear, whatever the config file says
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<Addr>,
    /// How long the answer may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

fn main() -> ExitCode {
    let args: Args = match cli::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let (named, log_format) = (args.config.as_deref(), args.log_format);
    match args.command {
        Some(Command::Packaging(what)) => what.print::<Args>(),
        Some(Command::Health(question)) => question.ask(named),
        Some(Command::Check) => with_config(named, |config| check(named, &config)),
        // It needs no file, and must not depend on where it is started.
        Some(Command::Demo) if named.is_none() => demo(Config::default(), log_format),
        Some(Command::Demo) => with_config(named, |config| demo(config, log_format)),
        None => with_config(named, |config| run(config, Config::file(named), args.takeover, log_format)),
    }
}

fn with_config(named: Option<&Path>, run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let Some(file) = Config::file(named) else { return run(Config::default()) };
    match Config::load_for_gateway(file) {
        Ok(config) => run(config),
        Err(faults) => cli::bad_config(file, &faults),
    }
}

fn run(config: Config, file: Option<&Path>, takeover: bool, log_format: LogFormat) -> ExitCode {
    match systemd::passed() {
        Ok(passed) => {
            let log = config.log.clone();
            cli::run(log_format, &log, |stop, log| async {
                let source = source(file, &log)?;
                App::bind(config, Start { passed, takeover }).await?.reload_from(source).run(stop, log).await
            })
        }
        Err(error) => cli::failed(&error),
    }
}

fn demo(config: Config, log_format: LogFormat) -> ExitCode {
    let log = config.log.clone();
    cli::run(log_format, &log, |stop, log| async {
        let source = source(None, &log)?;
        app::demo(config, source, stop, log).await
    })
}

/// Where the config comes from while the gateway runs.
fn source(file: Option<&Path>, log: &Log) -> anyhow::Result<Source> {
    Ok(Source { file: file.map(Path::to_owned), asked: cli::hangups()?, log: log.filter() })
}

fn check(named: Option<&Path>, config: &Config) -> ExitCode {
    let file = named.unwrap_or(Path::new(DEFAULT_PATH));
    let what = if file.exists() { "ok" } else { "there is no such file, and the defaults are ok" };
    // Whoever reads it may have read enough, which changes nothing.
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let _ = writeln!(stdout, "{}: {what}", file.display());
    for consequence in config.consequences() {
        let _ = writeln!(stdout, "- {consequence}");
    }
    for warning in config.warnings() {
        let _ = writeln!(stderr, "{}: warning: {warning}", file.display());
    }
    ExitCode::SUCCESS
}

impl Health {
    fn ask(self, named: Option<&Path>) -> ExitCode {
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let ask = |listener: Listener| cli::answer(listener.ask(path, self.timeout));
        let Some(file) = Config::file(named).filter(|_| self.addr.is_none()) else {
            return ask(self
                .addr
                .as_ref()
                .map_or_else(|| Listener::of(&Config::default().gateway), Listener::at));
        };
        let (gateway, sound) = Config::load_listeners(file);
        let answer = ask(Listener::of(&gateway));
        let Err(faults) = sound else { return answer };
        let bad_config = cli::bad_config(file, &faults);
        // It runs with the config that it has, however the file was changed since.
        if answer == ExitCode::SUCCESS { answer } else { bad_config }
    }
}
