use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::super::message::Delivery;
use super::super::testing::message;
use super::*;

fn limits() -> Limits {
    Limits { message_bytes: 100, body_bytes: 1_000, command_line_bytes: 200, ..Limits::default() }
}

fn command(input: &[u8], phase: Phase) -> Command<'_> {
    match decode(input, phase, &limits()) {
        Ok(Decoded::Whole(command, bytes)) => {
            assert_eq!(bytes, input.len(), "the command is the whole input");
            command
        }
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

fn error(input: &[u8], phase: Phase) -> String {
    let error = decode(input, phase, &limits()).expect_err("an error");
    assert!(error.fatal);
    format!("{} {}", error.code, error.text)
}

fn sized(line: &str, body: &[u8]) -> Vec<u8> {
    let mut input = line.as_bytes().to_vec();
    input.extend_from_slice(&u32::try_from(body.len()).expect("small").to_be_bytes());
    input.extend_from_slice(body);
    input
}

fn batch(bodies: &[&[u8]]) -> Vec<u8> {
    let mut batch = u32::try_from(bodies.len()).expect("few").to_be_bytes().to_vec();
    for body in bodies {
        batch.extend(sized("", body));
    }
    batch
}

fn name(name: &'static str) -> Name<'static> {
    Name::parse(name.as_bytes()).expect("a valid name")
}

#[test]
fn reads_every_command() {
    use Phase::{Closing, Init, Subscribed};
    let id = *b"0123456789abcdef";
    let ms = Duration::from_millis;

    assert_eq!(command(b"NOP\n", Init), Command::Nop);
    assert_eq!(command(b"NOP\r\n", Subscribed), Command::Nop);
    assert_eq!(command(&sized("IDENTIFY\n", b"{}"), Init), Command::Identify(b"{}"));
    assert_eq!(command(&sized("AUTH\n", b"secret"), Init), Command::Auth);
    let sub = Command::Sub { topic: name("t"), channel: name("c#ephemeral") };
    assert_eq!(command(b"SUB t c#ephemeral\n", Init), sub);
    let publish = Command::Pub { topic: name("t"), body: b"\n \n" };
    assert_eq!(command(&sized("PUB t\n", b"\n \n"), Init), publish);
    let bodies = Command::MultiPub { topic: name("t"), bodies: vec![b"a", b"bc"] };
    assert_eq!(command(&sized("MPUB t\n", &batch(&[b"a", b"bc"])), Init), bodies);
    let deferred = Command::DeferredPub { topic: name("t"), body: b"a", delay: ms(1500) };
    assert_eq!(command(&sized("DPUB t 1500\n", b"a"), Subscribed), deferred);
    assert_eq!(command(b"RDY 2500\n", Subscribed), Command::Ready(2500));
    assert_eq!(command(b"RDY\n", Subscribed), Command::Ready(1));
    assert_eq!(command(b"RDY 99999\n", Closing), Command::Nop);
    assert_eq!(command(b"FIN 0123456789abcdef\n", Closing), Command::Finish(id));
    assert_eq!(command(b"TOUCH 0123456789abcdef\n", Subscribed), Command::Touch(id));
    let requeue = Command::Requeue { id, delay: ms(7) };
    assert_eq!(command(b"REQ 0123456789abcdef 7\n", Subscribed), requeue);
    let longest = Command::Requeue { id, delay: limits().max_delay };
    assert_eq!(command(b"REQ 0123456789abcdef 99999999999999999999999\n", Subscribed), longest);
    assert_eq!(command(b"CLS\n", Subscribed), Command::Close);
}

#[test]
fn says_what_is_wrong_in_nsqds_words() {
    use Phase::{Closing, Init, Subscribed};
    let too_big = sized("PUB t\n", &[0; 101]);
    let too_big_body = sized("MPUB t\n", &[0; 1_001]);

    for (input, phase, expected) in [
        (b"\n".as_slice(), Init, "E_INVALID invalid command "),
        (b"BOO a\n", Init, "E_INVALID invalid command BOO"),
        (b"nop\n", Init, "E_INVALID invalid command nop"),
        (b"RDY 1\n", Init, "E_INVALID cannot RDY in current state"),
        (b"FIN x\n", Init, "E_INVALID cannot FIN in current state"),
        (b"CLS\n", Closing, "E_INVALID cannot CLS in current state"),
        (b"SUB t c\n", Subscribed, "E_INVALID cannot SUB in current state"),
        (b"IDENTIFY\n", Subscribed, "E_INVALID cannot IDENTIFY in current state"),
        (b"SUB t\n", Init, "E_INVALID SUB insufficient number of parameters"),
        (b"SUB t! c\n", Init, "E_BAD_TOPIC SUB topic name \"t!\" is not valid"),
        (b"SUB t c!\n", Init, "E_BAD_CHANNEL SUB channel name \"c!\" is not valid"),
        (b"PUB\n", Init, "E_INVALID PUB insufficient number of parameters"),
        (b"PUB \n", Init, "E_BAD_TOPIC PUB topic name \"\" is not valid"),
        (b"PUB t\n\0\0\0\0", Init, "E_BAD_MESSAGE PUB invalid message body size 0"),
        (b"PUB t\n\xff\xff\xff\xff", Init, "E_BAD_MESSAGE PUB invalid message body size -1"),
        (&too_big[..10], Init, "E_BAD_MESSAGE PUB message too big 101 > 100"),
        (&too_big_body[..11], Init, "E_BAD_BODY MPUB body too big 1001 > 1000"),
        (b"IDENTIFY\n\0\0\0\0", Init, "E_BAD_BODY IDENTIFY invalid body size 0"),
        (b"DPUB t x\n", Init, "E_INVALID DPUB could not parse timeout x"),
        (b"DPUB t 3600001\n", Init, "E_INVALID DPUB timeout 3600001 out of range 0-3600000"),
        (b"AUTH x\n", Init, "E_INVALID AUTH invalid number of parameters"),
        (b"RDY -1\n", Subscribed, "E_INVALID RDY could not parse count -1"),
        (b"RDY 2501\n", Subscribed, "E_INVALID RDY count 2501 out of range 0-2500"),
        (b"FIN\n", Subscribed, "E_INVALID FIN insufficient number of params"),
        (b"FIN short\n", Subscribed, "E_INVALID invalid message ID"),
        (b"REQ 0123456789abcdef\n", Subscribed, "E_INVALID REQ insufficient number of params"),
    ] {
        assert_eq!(error(input, phase), expected);
    }
}

#[test]
fn a_batch_must_be_what_it_says() {
    for (bytes, expected) in [
        (b"\0\0".as_slice(), "E_BAD_BODY"),
        (b"\0\0\0\0", "E_BAD_BODY"),
        (b"\xff\xff\xff\xff\0\0\0\x01a", "E_BAD_BODY"),
        (b"\x7f\xff\xff\xff\0\0\0\x01a", "E_BAD_BODY"),
        (b"\0\0\x27\x11\0\0\0\x01a", "E_BAD_BODY"),
        (b"\0\0\x27\x10\0\0\0\x01a", "E_BAD_MESSAGE"),
        (b"\0\0\0\x01\0\0\0\0a", "E_BAD_MESSAGE"),
        (b"\0\0\0\x01\0\0\0\x02a", "E_BAD_MESSAGE"),
        (b"\0\0\0\x01\0\0\0\x7faaaaaaaa", "E_BAD_MESSAGE"),
        (b"\0\0\0\x02\0\0\0\x01a\0\0\0\x09b", "E_BAD_MESSAGE"),
    ] {
        let error = split_batch(bytes, &limits()).expect_err("an error");
        assert_eq!(error.code, expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_line_may_be_long_but_not_endless() {
    let limits = limits();
    let partial = vec![b'x'; limits.command_line_bytes];
    assert_eq!(decode(&partial, Phase::Init, &limits), Ok(Decoded::Partial));
    let endless = vec![b'x'; limits.command_line_bytes + 1];
    assert_eq!(error(&endless, Phase::Init), "E_INVALID command line too long");
}

#[test]
fn frames_have_nsqds_layout() {
    let mut output = BytesMut::new();
    put_response(&mut output, b"OK");
    assert_eq!(&output[..], b"\0\0\0\x06\0\0\0\0OK");

    output.clear();
    put_error(&mut output, &CommandError::passing("E_FIN_FAILED", "no"));
    assert_eq!(&output[..], b"\0\0\0\x13\0\0\0\x01E_FIN_FAILED no");

    output.clear();
    let delivery = Delivery { message: message(0xab, Duration::ZERO), attempts: 3 };
    put_message(&mut output, &delivery);
    let expected = b"\0\0\0\x22\0\0\0\x02\0\0\0\0\0\0\0\0\0\x0300000000000000abbody";
    assert_eq!(&output[..], expected);
}

fn any_phase() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Init), Just(Phase::Subscribed), Just(Phase::Closing)]
}

/// Bytes that get past the first token more often than plain noise does.
fn near_commands() -> impl Strategy<Value = Vec<u8>> {
    let verb = prop::sample::select(vec![
        "IDENTIFY", "AUTH", "SUB", "PUB", "MPUB", "DPUB", "RDY", "FIN", "REQ", "TOUCH", "CLS", "NOP", "GET",
    ]);
    let params = "( [a-z#\\-0-9]{0,20}){0,3}\r?\n";
    let size = prop_oneof![0_i32..40, any::<i32>()];
    let tail = prop::collection::vec(any::<u8>(), 0..60);
    (verb, params, size, tail).prop_map(|(verb, params, size, tail)| {
        [verb.as_bytes(), params.as_bytes(), &size.to_be_bytes(), &tail].concat()
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_within_bounds(
        input in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), near_commands()],
        phase in any_phase(),
    ) {
        let limits = limits();
        match decode(&input, phase, &limits) {
            Ok(Decoded::Whole(command, bytes)) => {
                prop_assert!(bytes > 0 && bytes <= input.len());
                if let Command::MultiPub { bodies, .. } = command {
                    let total: usize = bodies.iter().map(|body| body.len()).sum();
                    prop_assert!(total <= limits.body_bytes);
                }
            }
            // A partial command is never waited for beyond the largest whole one.
            Ok(Decoded::Partial) => {
                prop_assert!(input.len() <= limits.command_line_bytes + 1 + 4 + limits.body_bytes);
            }
            Err(error) => prop_assert!(error.fatal && error.text.len() < 500),
        }
    }

    #[test]
    fn a_published_body_is_read_as_written_and_never_too_early(
        body in prop::collection::vec(any::<u8>(), 1..100),
        next in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let whole = sized("PUB topic\n", &body);
        for end in 0..whole.len() {
            prop_assert_eq!(decode(&whole[..end], Phase::Init, &limits()), Ok(Decoded::Partial));
        }
        let followed = [whole.as_slice(), &next].concat();
        let expected = Command::Pub { topic: name("topic"), body: &body };
        prop_assert_eq!(
            decode(&followed, Phase::Init, &limits()),
            Ok(Decoded::Whole(expected, whole.len()))
        );
    }

    #[test]
    fn a_batch_is_split_as_written(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 1..15),
    ) {
        let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let written = Bytes::from(batch(&bodies));
        prop_assert_eq!(split_batch(&written, &limits()), Ok(bodies));
    }
}
