//! `dataserver`: the sample dataserver, and the announcer for a service that exists already.

#![allow(clippy::doc_markdown, reason = "the comments on arguments are what --help prints")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use nsq_gateway::addr::Addr;
use nsq_gateway::cli;
use nsq_gateway::config::{Config, ServerAddr};
use nsq_gateway::dataserver::{self, Announcement, Announcer, Dataserver, Probe};
use nsq_gateway::protocol::Protocol;
use nsq_gateway::telemetry::LogFormat;

/// The sample dataserver: serves HTTP and announces itself over NSQ.
#[derive(Parser)]
#[command(name = "dataserver", version, args_conflicts_with_subcommands = true)]
struct Args {
    /// The config file; conf/config.yaml if there is one, else the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen and what to announce, instead of common.server_addr
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<ServerAddr>,
    /// Send heartbeats that are HOST:PORT and nothing else, and say no goodbye: for gateways that read nothing else
    #[arg(long)]
    plain: bool,
    /// How log lines look; they go to stderr, filtered by RUST_LOG or log.filter
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Packaging(cli::Packaging),
    /// Announce a service that exists already
    Announce {
        /// What to announce
        #[arg(long, value_name = "HOST:PORT")]
        addr: Addr,
        /// What it speaks: http/1.1 or h2c; without it, gateways go by their gateway.upstream_protocol
        #[arg(long, value_name = "PROTOCOL")]
        proto: Option<Protocol>,
        /// Announce it only while this URL answers 2xx
        #[arg(long, value_name = "URL")]
        probe: Option<Probe>,
        /// Send heartbeats that are HOST:PORT and nothing else, and say no goodbye: for gateways that read nothing else
        #[arg(long, conflicts_with = "proto")]
        plain: bool,
        /// The config file; conf/config.yaml if there is one, else the defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// How log lines look; they go to stderr, filtered by RUST_LOG or log.filter
        #[arg(long, value_enum, default_value = "text")]
        log_format: LogFormat,
    },
}

fn main() -> ExitCode {
    let args: Args = match cli::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match args.command {
        Some(Command::Packaging(what)) => what.print::<Args>(),
        Some(Command::Announce { addr, proto, probe, plain, config, log_format }) => {
            with_config(config.as_deref(), |config| {
                let log = config.log.clone();
                cli::run(log_format, &log, |stop, _| async move {
                    let announcement = Announcement { addr, protocol: proto, probe, plain };
                    let mut announcer = Announcer::new(announcement, &config)?;
                    stop.run_until_cancelled(announcer.run()).await;
                    announcer.goodbye(config.timeouts.leave).await;
                    anyhow::Ok(())
                })
            })
        }
        None => with_config(args.config.as_deref(), |config| {
            let log = config.log.clone();
            cli::run(args.log_format, &log, |stop, _| async move {
                let from = if args.addr.is_some() { "--addr" } else { "common.server_addr" };
                let addr = args.addr.unwrap_or_else(|| config.common.server_addr.clone());
                let bound = Dataserver::bind(&addr, &config.name).await;
                let dataserver =
                    bound.with_context(|| format!("cannot listen on {addr}; {from} moves it"))?;
                dataserver::run(dataserver, args.plain, &config, stop).await
            })
        }),
    }
}

fn with_config(named: Option<&Path>, run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let Some(file) = Config::file(named) else { return run(Config::default()) };
    match Config::load_for_dataserver(file) {
        Ok(config) => run(config),
        Err(faults) => cli::bad_config(file, &faults),
    }
}
