//! Packets that are lost, and connections that are reset or forgotten.

use std::time::{Duration, Instant};

use crate::dataservers::SENT_AT_MOST;
use crate::findings::{Drilled, at_most, finding, for_the_record, happens_within};
use crate::firewall::Firewall;
use crate::fleet::{CONNECT, Fleet};
use crate::load::Load;
use crate::support::{eventually, pause};
use crate::watch::Watch;
use crate::witness::{Beats, Manner, Witness};

/// What a request takes on this machine, apart from what it waits for.
const SLACK: Duration = Duration::from_millis(300);

/// A dataserver announces itself, and whoever connects to it hears nothing.
pub fn syn_blackhole() -> Drilled {
    let firewall = Firewall::new()?;
    let fleet = Fleet::start(3, "");
    let hole = Witness::start(Manner::Answer);
    firewall.drop_new(hole.addr);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(200);
    let _beats = Beats::of(vec![hole.addr.to_string()], fleet.gateway.nsq.unwrap()[1]);
    eventually("it to be known", || fleet.state(&hole.addr.to_string()));
    pause(Duration::from_secs(6));
    let answers = load.stop();
    Ok(vec![answers.none_failed(), at_most("the longest took", answers.longest(), CONNECT + SLACK)])
}

/// One that has served begins to reset every connection, and still announces itself.
pub fn reset_on_accept() -> Drilled {
    let fleet = Fleet::start(2, "");
    let witness = Witness::start(Manner::Answer);
    let addr = witness.addr.to_string();
    let _beats = Beats::of(vec![addr.clone()], fleet.gateway.nsq.unwrap()[1]);
    eventually("it to join", || (fleet.state(&addr)? == "live").then_some(()));
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(400);
    witness.becomes(Manner::Reset);
    let resets = Instant::now();
    // Not longer than it stays out the first time.
    pause(Duration::from_secs(6));
    let (answers, seen) = (load.stop(), watch.stop());
    Ok(vec![
        answers.none_failed(),
        at_most("last request to it after", seen.last_sent_after(&addr, resets), SENT_AT_MOST),
        happens_within("out of rotation after", seen.out_after(&addr, resets), SENT_AT_MOST),
    ])
}

/// A router between them forgets the connections that are kept; new ones get through.
pub fn pooled_connections_forgotten() -> Drilled {
    let firewall = Firewall::new()?;
    let fleet = Fleet::start(3, LIMIT);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(400);
    let forgotten = firewall.drop_open(fleet.addr(0));
    pause(Duration::from_secs(6));
    let answers = load.stop();
    Ok(vec![
        finding(format!("{forgotten} connections forgotten"), forgotten > 0),
        answers.none_failed(),
        for_the_record("the longest took", answers.longest()),
    ])
}

/// A dataserver's machine loses power: nobody is told, and nothing answers any more.
pub fn power_lost() -> Drilled {
    let firewall = Firewall::new()?;
    let mut fleet = Fleet::start(3, LIMIT);
    let addr = fleet.addrs()[0].clone();
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 200);
    load.go_on_for(400);
    firewall.drop_all(fleet.addr(0));
    let lost = fleet.kill(0);
    pause(Duration::from_secs(6));
    let (answers, seen) = (load.stop(), watch.stop());
    Ok(vec![
        answers.none_failed(),
        for_the_record("the longest took", answers.longest()),
        happens_within("out of rotation after", seen.out_after(&addr, lost), crate::fleet::TTL + SLACK * 2),
    ])
}

/// A request on a connection that nobody answers on must not wait for as long as a slow answer may take.
const LIMIT: &str = "timeouts: {unacknowledged: 1s, response_head: 10s}\n";
