//! Is one dataserver silent, or can nobody be heard? Pure: what is seen in, what follows from it out.
//!
//! Silence while heartbeats can be heard means gone. When they cannot be heard, because no nsqd is connected
//! or because most dataservers fall silent at once, silence means nothing: the set is frozen. When only some nsqds are connected, it
//! means little: a dataserver may publish to those that are not. In both cases whoever is silent stays for as long as it answers a probe. When heartbeats come
//! again, everybody has a TTL to be heard.
//!
//! One dataserver alone is never most of them: while its nsqds are connected its silence is its own. It has a TTL to be
//! heard after they were not, and after the others of a silent crowd have left.

use std::time::Duration;

use tokio::time::Instant;

use crate::registry::{Frozen, Survey};

/// While only some nsqds are connected, one that answers its probes may be silent for so many TTLs: by then it would
/// have published to another.
const DEGRADED_TTLS: u32 = 6;

/// What is known of the way that heartbeats come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// Every known nsqd is connected.
    Whole,
    /// Some are.
    Degraded,
    /// None is.
    Down,
}

impl Path {
    pub(super) fn of(connected: usize, known: usize) -> Self {
        match connected {
            0 => Self::Down,
            _ if connected < known => Self::Degraded,
            _ => Self::Whole,
        }
    }
}

/// Whether silence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// It does.
    Flowing,
    /// It takes longer to.
    Degraded,
    /// It does not.
    Frozen(Frozen),
    /// It does not: no nsqd was connected. One is again, and until then there is time for somebody to be heard.
    Reconnected { until: Instant },
    /// It does not yet.
    Thawing { until: Instant },
}

/// The TTL, and how close to it somebody is when all of them have to be looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    pub(super) ttl: Duration,
    pub(super) margin: Duration,
}

impl Silence {
    /// A dataserver that lives and beats at least twice in a TTL is never silent for so long, and of those that
    /// fell silent together nearly all are when the first of them is about to expire.
    pub(super) fn late(self) -> Duration {
        self.ttl * 11 / 20
    }
}

impl Hold {
    /// What to make of it now.
    pub(super) fn next(self, path: Path, survey: &Survey, silence: Silence, now: Instant) -> Self {
        let Survey { known, silent, longest, out, is_anybody_heard } = *survey;
        if known + out == 0 {
            return if path == Path::Degraded { Self::Degraded } else { Self::Flowing };
        }
        if path == Path::Down {
            return Self::Frozen(Frozen::NoNsqd);
        }
        let are_most_silent = silent * 2 > known;
        let is_about_to_lose = longest + silence.margin >= silence.ttl;
        if is_about_to_lose && silent >= 2 && are_most_silent && !matches!(self, Self::Frozen(_)) {
            return Self::Frozen(Frozen::Silence);
        }
        let thawing = Self::Thawing { until: now + silence.ttl };
        match self {
            Self::Frozen(_) | Self::Reconnected { .. } if is_anybody_heard && !are_most_silent => thawing,
            Self::Frozen(_) | Self::Reconnected { .. } if known + out == 1 => thawing,
            Self::Frozen(Frozen::NoNsqd) if !are_most_silent => {
                Self::Reconnected { until: now + silence.late() }
            }
            Self::Reconnected { until } if !are_most_silent && now < until => self,
            Self::Frozen(_) | Self::Reconnected { .. } => Self::Frozen(Frozen::Silence),
            Self::Degraded if path == Path::Whole => thawing,
            Self::Thawing { until } if now < until => self,
            Self::Degraded | Self::Thawing { .. } | Self::Flowing => {
                if path == Path::Degraded {
                    Self::Degraded
                } else {
                    Self::Flowing
                }
            }
        }
    }

    /// Who is silent for longer is not live; `None`: nobody's silence matters.
    pub(super) fn limit(self, silence: Silence) -> Option<Duration> {
        match self {
            Self::Flowing => Some(silence.ttl),
            Self::Degraded => Some(silence.ttl * DEGRADED_TTLS),
            Self::Frozen(_) | Self::Reconnected { .. } | Self::Thawing { .. } => None,
        }
    }

    /// Who is silent for longer is probed; `None`: nobody, for that.
    pub(super) fn probed_after(self, silence: Silence, interval: Duration) -> Option<Duration> {
        match self {
            Self::Flowing => None,
            Self::Degraded => Some(silence.ttl.saturating_sub(silence.margin)),
            // Nobody will be heard: there is nothing to wait for.
            Self::Frozen(Frozen::NoNsqd) => Some(interval.min(silence.late())),
            Self::Frozen(Frozen::Silence) | Self::Reconnected { .. } | Self::Thawing { .. } => {
                Some(silence.late())
            }
        }
    }

    /// For how long one may fail its probes that is silent.
    pub(super) fn mercy(self, give_up: Duration) -> Duration {
        if self.frozen().is_some() { give_up } else { Duration::ZERO }
    }

    /// Why it is, if nobody is evicted for silence.
    pub(super) fn frozen(self) -> Option<Frozen> {
        match self {
            Self::Frozen(why) => Some(why),
            Self::Reconnected { .. } => Some(Frozen::NoNsqd),
            Self::Flowing | Self::Degraded | Self::Thawing { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SILENCE: Silence = Silence { ttl: Duration::from_secs(10), margin: Duration::from_millis(200) };

    fn survey(known: usize, silent: usize, longest: Duration) -> Survey {
        Survey { known, silent, longest, out: 0, is_anybody_heard: silent < known }
    }

    fn next(hold: Hold, path: Path, survey: Survey) -> Hold {
        hold.next(path, &survey, SILENCE, Instant::now())
    }

    #[test]
    fn one_that_is_silent_is_gone_and_most_of_them_freeze_the_set() {
        let about = SILENCE.ttl.saturating_sub(SILENCE.margin);
        for (known, silent, longest, frozen) in [
            (3, 1, about, false),
            (3, 2, about, true),
            (4, 2, about, false),
            (2, 2, about, true),
            (1, 1, about, false),
            (100, 51, about, true),
            // Nobody is about to be lost yet.
            (3, 3, about.saturating_sub(SECOND), false),
        ] {
            let hold = next(Hold::Flowing, Path::Whole, survey(known, silent, longest));
            let expected = if frozen { Hold::Frozen(Frozen::Silence) } else { Hold::Flowing };
            assert_eq!(hold, expected, "{silent} of {known}");
        }
    }

    #[test]
    fn faults_12_without_an_nsqd_the_set_is_frozen_at_once_and_thaws_when_heartbeats_flow() {
        let begun = Instant::now();
        let hold = next(Hold::Flowing, Path::Down, survey(3, 0, SECOND));
        assert_eq!(hold, Hold::Frozen(Frozen::NoNsqd));
        assert_eq!((hold.limit(SILENCE), hold.mercy(SECOND)), (None, SECOND));
        // That nsqd is back is not enough.
        let hold = next(hold, Path::Whole, survey(3, 3, 60 * SECOND));
        assert_eq!(hold, Hold::Frozen(Frozen::Silence));
        let hold = next(hold, Path::Whole, survey(3, 1, 60 * SECOND));
        let Hold::Thawing { until } = hold else { panic!("{hold:?}") };
        assert!(until >= begun + SILENCE.ttl);
        assert_eq!(hold.limit(SILENCE), None);
        assert_eq!(hold.next(Path::Whole, &survey(3, 1, 60 * SECOND), SILENCE, until), Hold::Flowing);
    }

    #[test]
    fn nobody_is_called_silent_who_had_no_time_to_be_heard() {
        let begun = Instant::now();
        let (out, back) = (Survey { out: 3, ..Survey::default() }, Survey { known: 3, ..Survey::default() });
        let hold = next(Hold::Flowing, Path::Down, out);
        for seen in [out, back] {
            let hold = next(hold, Path::Whole, seen);
            assert_eq!((hold.frozen(), hold.limit(SILENCE)), (Some(Frozen::NoNsqd), None));
            assert_eq!((next(hold, Path::Whole, seen), hold.mercy(SECOND)), (hold, SECOND));
            // As soon as somebody is heard, or really is not.
            let heard = Survey { is_anybody_heard: true, ..seen };
            assert!(matches!(next(hold, Path::Whole, heard), Hold::Thawing { .. }));
            let silent = survey(3, 2, SILENCE.late());
            assert_eq!(next(hold, Path::Whole, silent), Hold::Frozen(Frozen::Silence));
            let late = begun + SILENCE.late() + SECOND;
            assert_eq!(hold.next(Path::Whole, &seen, SILENCE, late), Hold::Frozen(Frozen::Silence));
            assert_eq!(next(hold, Path::Down, seen), Hold::Frozen(Frozen::NoNsqd));
        }
    }

    #[test]
    fn while_some_nsqds_are_lost_silence_takes_longer_to_count() {
        let hold = next(Hold::Flowing, Path::Degraded, survey(3, 1, SILENCE.ttl));
        assert_eq!(hold, Hold::Degraded);
        assert_eq!(hold.limit(SILENCE), Some(60 * SECOND));
        assert!(matches!(next(hold, Path::Whole, survey(3, 1, SILENCE.ttl)), Hold::Thawing { .. }));
    }

    #[test]
    fn an_empty_set_is_never_frozen() {
        assert_eq!(next(Hold::Frozen(Frozen::NoNsqd), Path::Down, Survey::default()), Hold::Flowing);
    }

    #[test]
    fn when_all_have_failed_their_probes_it_stays_frozen_until_somebody_is_heard() {
        let all_out = Survey { out: 3, ..Survey::default() };
        let frozen = Hold::Frozen(Frozen::Silence);
        assert_eq!(next(frozen, Path::Whole, all_out), frozen);
        let heard = Survey { is_anybody_heard: true, ..all_out };
        assert!(matches!(next(frozen, Path::Whole, heard), Hold::Thawing { .. }));
    }

    #[test]
    fn one_that_is_left_of_a_silent_crowd_has_a_ttl_to_be_heard() {
        let alone = survey(1, 1, 60 * SECOND);
        let failed = Survey { out: 1, ..Survey::default() };
        for left in [alone, failed] {
            let hold = next(Hold::Frozen(Frozen::Silence), Path::Whole, left);
            let Hold::Thawing { until } = hold else { panic!("{hold:?}") };
            assert_eq!(hold.next(Path::Whole, &left, SILENCE, until), Hold::Flowing);
            // Nor is it frozen again, unless no nsqd is connected.
            assert_eq!(next(Hold::Flowing, Path::Whole, left), Hold::Flowing);
            assert_eq!(next(hold, Path::Down, left), Hold::Frozen(Frozen::NoNsqd));
        }
    }

    proptest! {
        /// Whatever is seen: nobody expires while most are silent or no nsqd is connected.
        #[test]
        fn silence_counts_only_while_others_are_heard(
            steps in proptest::collection::vec((0usize..3, 1usize..6, 0usize..6, 0u32..20), 1..40),
        ) {
            let (mut hold, mut now) = (Hold::Flowing, Instant::now());
            for (path, known, silent, longest) in steps {
                now += SECOND;
                let path = [Path::Whole, Path::Degraded, Path::Down][path];
                let survey = survey(known, silent.min(known), longest * SECOND);
                hold = hold.next(path, &survey, SILENCE, now);
                let most = survey.silent >= 2 && survey.silent * 2 > known && longest >= 10;
                if path == Path::Down || most {
                    prop_assert_eq!(hold.limit(SILENCE), None);
                    prop_assert!(hold.frozen().is_some());
                }
            }
        }
    }
}
