//! Several faults at once, in no order that anybody has chosen.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::findings::{Drilled, Finding, finding, grouped, holds, none};
use crate::fleet::{Fleet, gateway_config, real_nsq};
use crate::load::{Answer, Answers, Load};
use crate::support::{Apiserver, Cluster, DataserverProcess, pause};

const DATASERVERS: usize = 5;

/// A dataserver that was killed is away for so long.
const AWAY: Duration = Duration::from_millis(700);

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// A dataserver is killed, if most of them are there.
    Kill,
    /// A dataserver is told to stop, and comes back.
    Restart,
    /// An nsqd is killed, or comes back.
    Nsqd,
    Reload,
    Takeover,
}

const FAULTS: [Fault; 5] = [Fault::Kill, Fault::Restart, Fault::Nsqd, Fault::Reload, Fault::Takeover];

struct Chaos {
    rng: SmallRng,
    cluster: Cluster,
    fleet: Fleet,
    /// Which dataserver was killed, and when.
    killed: Vec<(usize, Instant)>,
    kills: Vec<Instant>,
    /// Told to stop, and not gone yet when another took its place.
    leaving: Vec<DataserverProcess>,
    nsqd_is_away: Option<usize>,
    /// Gateways that were taken over from.
    old: Vec<Apiserver>,
    happened: Vec<Fault>,
}

/// For a minute, a fault every half a second on average.
pub fn everything_at_once() -> Drilled {
    const LENGTH: Duration = Duration::from_secs(60);
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let cluster = real_nsq(2)?;
    let fleet = Fleet::on(&cluster, DATASERVERS, &settings(10));
    let load = Load::of_every_kind(&[fleet.gateway.listen], 300);
    let mut chaos = Chaos {
        rng: SmallRng::seed_from_u64(seed),
        cluster,
        fleet,
        killed: Vec::new(),
        kills: Vec::new(),
        leaving: Vec::new(),
        nsqd_is_away: None,
        old: Vec::new(),
        happened: Vec::new(),
    };
    load.go_on_for(300);
    let begun = Instant::now();
    while begun.elapsed() < LENGTH {
        let calm = chaos.rng.random_range(0..1_000);
        pause(Duration::from_millis(calm));
        chaos.bring_back();
        chaos.next();
    }
    load.go_on_for(300);
    Ok(chaos.findings(&load.stop()))
}

/// What differs from one config to the next.
fn settings(clock: u32) -> String {
    format!("timeouts: {{pool_idle: {clock}s}}\nreload: {{check_interval: 50ms}}\n")
}

impl Chaos {
    fn next(&mut self) {
        let Some(fault) = FAULTS.choose(&mut self.rng).copied() else { return };
        let n = self.rng.random_range(0..DATASERVERS);
        let is_there = !self.killed.iter().any(|(killed, _)| *killed == n);
        match fault {
            Fault::Kill if is_there && self.killed.len() < DATASERVERS - 3 => {
                self.kills.push(self.fleet.kill(n));
                self.killed.push((n, Instant::now()));
            }
            Fault::Restart if is_there => {
                self.fleet.dataservers[n].process.signal("TERM");
                let new = DataserverProcess::start(&self.cluster.config(false, ""));
                self.leaving.push(std::mem::replace(&mut self.fleet.dataservers[n], new));
            }
            Fault::Kill | Fault::Restart => return,
            Fault::Nsqd => {
                if let Some(away) = self.nsqd_is_away.take() {
                    self.cluster.nsqds[away].run();
                } else {
                    let goes = self.rng.random_range(0..self.cluster.nsqds.len());
                    self.cluster.nsqds[goes].kill();
                    self.nsqd_is_away = Some(goes);
                }
            }
            Fault::Reload => {
                let config = self.gateway_config();
                self.fleet.gateway.write_config(&config);
            }
            Fault::Takeover => {
                let config = self.gateway_config();
                let new = Apiserver::start_with(&config, |command| {
                    command.arg("--takeover");
                });
                self.old.push(std::mem::replace(&mut self.fleet.gateway, new));
            }
        }
        self.happened.push(fault);
    }

    /// Of the gateway, at the address where it is.
    fn gateway_config(&mut self) -> String {
        let listen = format!("gateway: {{listen: '{}'}}\n", self.fleet.gateway.listen);
        let clock = self.rng.random_range(1..10);
        gateway_config(&self.cluster, &(listen + &settings(clock)))
    }

    /// Whoever was away for long enough.
    fn bring_back(&mut self) {
        let is_due = |(_, since): &mut (usize, Instant)| since.elapsed() > AWAY;
        for (n, _) in self.killed.extract_if(.., is_due).collect::<Vec<_>>() {
            self.fleet.start_again(n);
        }
    }

    fn findings(mut self, answers: &Answers) -> Vec<Finding> {
        let exits: Vec<_> = self.old.iter_mut().map(|gateway| gateway.process.wait().code()).collect();
        let counts = FAULTS.map(|fault| self.happened.iter().filter(|happened| **happened == fault).count());
        let happened: Vec<_> =
            FAULTS.iter().zip(counts).map(|(fault, count)| format!("{count} × {fault:?}")).collect();
        // A POST that was under way on a dataserver as it died may not be sent again.
        let was_on_the_dead = |answer: &&Answer| {
            self.kills.iter().any(|killed| answer.at <= *killed && *killed <= answer.at + answer.took)
        };
        let posts = answers.to_method("POST");
        let failed = posts.failed();
        let excused = failed.iter().filter(was_on_the_dead).count();
        let gateways = self.old.iter().chain([&self.fleet.gateway]);
        let panics = gateways.filter(|gateway| gateway.process.output().contains("panicked")).count();
        let posts_failed = format!(
            "{} of {} POSTs failed, {excused} of them on one that was killed",
            failed.len(),
            grouped(posts.len())
        );
        let all_left = exits.iter().all(|code| *code == Some(0));
        vec![
            finding(happened.join(", "), !counts.contains(&0)),
            answers.to_method("GET").none_failed(),
            finding(posts_failed, failed.len() == excused),
            answers.of_every_kind(),
            holds(&format!("{} gateways left with exit code 0", exits.len()), all_left),
            none("panics", panics),
        ]
    }
}
