use super::super::testing::message;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);
const ALICE: ClientId = ClientId(1);
const BOB: ClientId = ClientId(2);

fn channel() -> Channel {
    Channel::new("topic/channel".to_owned(), &Limits::default())
}

fn publish(channel: &mut Channel, ids: impl IntoIterator<Item = u64>, now: Instant) {
    for id in ids {
        channel.publish(&message(id, Duration::ZERO), now);
    }
}

fn subscribe(channel: &mut Channel, id: ClientId, ready: u32) -> watch::Receiver<()> {
    subscribe_sampled(channel, id, ready, 0)
}

fn subscribe_sampled(
    channel: &mut Channel,
    id: ClientId,
    ready: u32,
    sample_rate: u8,
) -> watch::Receiver<()> {
    let info = ClientInfo {
        id,
        remote: ([127, 0, 0, 1], 1).into(),
        connected_at: 0,
        client_id: String::new(),
        hostname: String::new(),
        user_agent: String::new(),
        sample_rate,
    };
    let (_, signal) = channel.subscribe(Arc::new(info), TIMEOUT);
    channel.consumer_mut(id).expect("subscribed").ready_count = ready;
    signal
}

/// What one take delivers: each message's ID and how often it was delivered.
fn take(channel: &mut Channel, client: ClientId, now: Instant) -> Vec<(u64, u16)> {
    let mut batch = Vec::new();
    channel.take(client, usize::MAX, now, &mut batch);
    batch.iter().map(|delivery| (delivery.id().0, delivery.attempts)).collect()
}

#[test]
fn a_consumer_takes_no_more_than_its_ready_count() {
    let now = Instant::now();
    let mut channel = channel();
    subscribe(&mut channel, ALICE, 2);
    publish(&mut channel, 1..=5, now);
    assert_eq!(take(&mut channel, ALICE, now), [(1, 1), (2, 1)]);
    assert_eq!(take(&mut channel, ALICE, now), []);
    channel.finish(ALICE, MessageId(1)).expect("in flight");
    assert_eq!(take(&mut channel, ALICE, now), [(3, 1)]);
}

#[test]
fn a_batch_ends_with_the_message_that_fills_the_room() {
    let now = Instant::now();
    let mut channel = channel();
    subscribe(&mut channel, ALICE, 10);
    publish(&mut channel, 1..=5, now);
    let mut batch = Vec::new();
    // Each body has four bytes.
    assert!(channel.take(ALICE, 5, now, &mut batch));
    assert_eq!(batch.len(), 2);
}

#[test]
fn consumers_share_what_is_ready() {
    let now = Instant::now();
    let mut channel = channel();
    subscribe(&mut channel, ALICE, 100);
    subscribe(&mut channel, BOB, 100);
    publish(&mut channel, 1..=10, now);
    assert_eq!(take(&mut channel, ALICE, now).len(), 5);
    assert_eq!(take(&mut channel, BOB, now).len(), 3);
}

#[test]
fn an_unanswered_message_comes_back_and_its_consumer_is_told() {
    let now = Instant::now();
    let mut channel = channel();
    let signal = subscribe(&mut channel, ALICE, 1);
    publish(&mut channel, [1], now);
    assert_eq!(take(&mut channel, ALICE, now), [(1, 1)]);
    assert_eq!(channel.next_deadline(), Some(now + TIMEOUT));

    channel.expire(now + TIMEOUT - Duration::from_millis(1));
    assert_eq!(take(&mut channel, ALICE, now), []);
    assert!(!signal.has_changed().expect("subscribed"));

    channel.expire(now + TIMEOUT);
    assert!(signal.has_changed().expect("subscribed"));
    assert_eq!(channel.finish(ALICE, MessageId(1)), Err(NotInFlight::Unknown));
    assert_eq!(take(&mut channel, ALICE, now), [(1, 2)]);
    assert_eq!(channel.stats("c", false).timeout_count, 1);
}

#[test]
fn a_consumer_that_leaves_gives_its_messages_back_at_their_deadline() {
    let now = Instant::now();
    let mut channel = channel();
    subscribe(&mut channel, ALICE, 1);
    subscribe(&mut channel, BOB, 1);
    publish(&mut channel, [1], now);
    take(&mut channel, ALICE, now);
    assert!(channel.unsubscribe(ALICE));
    assert!(!channel.unsubscribe(ALICE));
    assert_eq!(take(&mut channel, BOB, now), []);
    channel.expire(now + TIMEOUT);
    assert_eq!(take(&mut channel, BOB, now), [(1, 2)]);
}

#[test]
fn touch_gives_the_timeout_again_within_the_maximum() {
    let now = Instant::now();
    let limits = Limits { max_msg_timeout: TIMEOUT * 3 / 2, ..Limits::default() };
    let mut channel = Channel::new("t/c".to_owned(), &limits);
    subscribe(&mut channel, ALICE, 1);
    publish(&mut channel, [1], now);
    take(&mut channel, ALICE, now);

    channel.touch(ALICE, MessageId(1), now + TIMEOUT / 4).expect("in flight");
    assert_eq!(channel.next_deadline(), Some(now + TIMEOUT + TIMEOUT / 4));
    channel.touch(ALICE, MessageId(1), now + TIMEOUT).expect("in flight");
    assert_eq!(channel.next_deadline(), Some(now + TIMEOUT * 3 / 2));
    channel.finish(ALICE, MessageId(1)).expect("in flight");
    assert_eq!(channel.next_deadline(), None);
}

#[test]
fn requeue_is_at_once_or_after_its_delay() {
    let now = Instant::now();
    let delay = Duration::from_secs(5);
    let mut channel = channel();
    subscribe(&mut channel, ALICE, 1);
    publish(&mut channel, [1], now);
    take(&mut channel, ALICE, now);

    channel.requeue(ALICE, MessageId(1), Duration::ZERO, now).expect("in flight");
    assert_eq!(take(&mut channel, ALICE, now), [(1, 2)]);

    channel.requeue(ALICE, MessageId(1), delay, now).expect("in flight");
    assert_eq!(take(&mut channel, ALICE, now), []);
    assert_eq!(channel.next_deadline(), Some(now + delay));
    channel.expire(now + delay);
    assert_eq!(take(&mut channel, ALICE, now), [(1, 3)]);
    assert_eq!(channel.stats("c", false).requeue_count, 2);
}

#[test]
fn only_the_owner_answers_a_message() {
    let now = Instant::now();
    let mut channel = channel();
    subscribe(&mut channel, ALICE, 1);
    subscribe(&mut channel, BOB, 1);
    publish(&mut channel, [1], now);
    take(&mut channel, ALICE, now);
    assert_eq!(channel.finish(BOB, MessageId(1)), Err(NotInFlight::NotOwner));
    assert_eq!(channel.touch(BOB, MessageId(1), now), Err(NotInFlight::NotOwner));
    assert_eq!(channel.finish(ALICE, MessageId(2)), Err(NotInFlight::Unknown));
    assert_eq!(channel.finish(ALICE, MessageId(1)), Ok(()));
}

#[test]
fn a_deferred_message_waits_for_its_time_and_the_first_due_gives_way() {
    let now = Instant::now();
    let limits = Limits { queue_messages: 2, ..Limits::default() };
    let mut channel = Channel::new("t/c".to_owned(), &limits);
    subscribe(&mut channel, ALICE, 9);
    for id in 1..=3 {
        channel.publish(&message(id, Duration::from_secs(id)), now);
    }
    channel.expire(now + Duration::from_secs(2));
    assert_eq!(take(&mut channel, ALICE, now), [(2, 1)]);
    let stats = channel.stats("c", false);
    assert_eq!((stats.deferred_count, stats.dropped_count, stats.message_count), (1, 1, 3));
}

#[test]
fn a_sampled_out_message_is_spent() {
    let now = Instant::now();
    let mut channel = channel();
    subscribe_sampled(&mut channel, ALICE, 2_000, 50);
    publish(&mut channel, 1..=1_000, now);
    let taken = take(&mut channel, ALICE, now).len();
    assert!((300..700).contains(&taken), "{taken}");
    assert_eq!(channel.stats("c", false).depth, 0);
}

#[test]
fn emptying_forgets_everything_and_frees_the_consumers() {
    let now = Instant::now();
    let mut channel = channel();
    subscribe(&mut channel, ALICE, 1);
    publish(&mut channel, 1..=3, now);
    channel.publish(&message(4, TIMEOUT), now);
    take(&mut channel, ALICE, now);
    channel.empty();
    assert_eq!(channel.next_deadline(), None);
    let stats = channel.stats("c", true);
    assert_eq!((stats.depth, stats.in_flight_count, stats.deferred_count), (0, 0, 0));
    publish(&mut channel, [5], now);
    assert_eq!(take(&mut channel, ALICE, now), [(5, 1)]);
}
