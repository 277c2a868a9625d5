//! `apiserver`: the gateway.

#![allow(clippy::doc_markdown, reason = "the comments on arguments are what --help prints")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nsq_gateway::app::{self, App};
use nsq_gateway::cli;
use nsq_gateway::config::{Config, DEFAULT_PATH};
use nsq_gateway::telemetry::LogFormat;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An HTTP gateway that always knows which dataservers are alive.
#[derive(Parser)]
#[command(name = "apiserver", version, about)]
struct Args {
    /// The config file; conf/config.yaml if there is one, else the defaults
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// How log lines look; they go to stderr, filtered by RUST_LOG or log.filter
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run an embedded NSQ, three sample dataservers and the gateway in one process
    Demo,
    /// Read and validate the config file, and print every fault; if there is none, what the timings mean
    Check,
}

fn main() -> ExitCode {
    let args: Args = match cli::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let config = match (&args.command, &args.config) {
        // The demo needs no file, and must not depend on where it is started.
        (Some(Command::Demo), None) => Ok(Config::default()),
        (_, named) => {
            Config::file(named.as_deref()).map_or_else(|| Ok(Config::default()), Config::load_for_gateway)
        }
    };
    let file = args.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    let config = match config {
        Ok(config) => config,
        Err(faults) => return cli::bad_config(file, &faults),
    };
    match args.command {
        Some(Command::Check) => {
            let what = if file.exists() { "ok" } else { "there is no such file, and the defaults are ok" };
            println!("{}: {what}", file.display());
            for consequence in config.consequences() {
                println!("- {consequence}");
            }
            for warning in config.warnings() {
                eprintln!("{}: warning: {warning}", file.display());
            }
            ExitCode::SUCCESS
        }
        Some(Command::Demo) => {
            let log = config.log.clone();
            cli::run(args.log_format, &log, |stop, log| app::demo(config, stop, log))
        }
        None => {
            let log = config.log.clone();
            cli::run(args.log_format, &log, |stop, log| async {
                App::bind(config).await?.run(stop, log).await
            })
        }
    }
}
