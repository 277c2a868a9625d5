//! A relay between tokio-nsq and one nsqd, within this process, that sees every frame.
//!
//! It is there for what tokio-nsq does not do. It ends when the connection ends, so that a lost link is known at
//! once. It adds to tokio-nsq's IDENTIFY the wish for a quick heartbeat, so that an nsqd that has stopped or
//! was cut off without a FIN is found out by its silence. And it checks each frame's head before it passes:
//! tokio-nsq would allocate up to 4 GiB for a size that is made up.
//!
//! The protocol: <https://nsq.io/clients/tcp_protocol_spec.html>.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame that passes, in bytes: nsqd's default message size and room for a frame's own fields.
/// A heartbeat is never near it.
const MAX_FRAME: u32 = 1024 * 1024 + 1024;

/// Longest IDENTIFY body that passes, in bytes. tokio-nsq's is about 200.
const MAX_IDENTIFY: usize = 64 * 1024;

/// Frame type, timestamp, attempts, message id: what a message frame holds at least.
const MESSAGE_MIN: u32 = 4 + 8 + 2 + 16;

const BUFFER: usize = 64 * 1024;

/// Why the relay ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("nsqd closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("nsqd sent nothing for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("nsqd sent a frame of {0} bytes")]
    FrameSize(u32),
    #[error("nsqd sent a frame of unknown type {0}")]
    FrameType(u32),
    #[error("the NSQ client did not begin with a sound IDENTIFY")]
    Identify,
}

/// Relays until the connection ends on either side, or breaks a rule.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    nsqd: impl AsyncRead + AsyncWrite,
    silence: Duration,
) -> Ended {
    let (mut client_reads, client_writes) = tokio::io::split(client);
    let (nsqd_reads, mut nsqd_writes) = tokio::io::split(nsqd);
    let outward = async {
        identify(&mut client_reads, &mut nsqd_writes, silence).await?;
        tokio::io::copy(&mut client_reads, &mut nsqd_writes).await?;
        Err(Ended::Closed)
    };
    let ended: Result<(), Ended> = tokio::select! {
        ended = outward => ended,
        ended = inward(nsqd_reads, client_writes, silence) => ended,
    };
    ended.err().unwrap_or(Ended::Closed)
}

/// Passes the magic and the IDENTIFY on, with nsqd's heartbeat set to come twice in the time of silence allowed.
async fn identify(
    client: &mut (impl AsyncRead + Unpin),
    nsqd: &mut (impl AsyncWrite + Unpin),
    silence: Duration,
) -> Result<(), Ended> {
    const HEAD: &[u8; 13] = b"  V2IDENTIFY\n";
    let mut head = [0; HEAD.len()];
    client.read_exact(&mut head).await?;
    let len = usize::try_from(client.read_u32().await?).unwrap_or(usize::MAX);
    if head != *HEAD || len > MAX_IDENTIFY {
        return Err(Ended::Identify);
    }
    let mut body = vec![0; len];
    client.read_exact(&mut body).await?;
    let mut body: serde_json::Map<_, _> = serde_json::from_slice(&body).map_err(|_| Ended::Identify)?;
    // nsqd takes one second at the least.
    let interval_millis = (silence / 2).max(Duration::from_secs(1)).as_millis();
    let interval_millis = u64::try_from(interval_millis).unwrap_or(u64::MAX);
    body.insert("heartbeat_interval".to_owned(), interval_millis.into());
    let body = serde_json::to_vec(&body).map_err(|_| Ended::Identify)?;
    let len = u32::try_from(body.len()).map_err(|_| Ended::Identify)?;

    let mut out = Vec::with_capacity(HEAD.len() + 4 + body.len());
    out.extend_from_slice(HEAD);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&body);
    nsqd.write_all(&out).await?;
    Ok(())
}

async fn inward(
    mut nsqd: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    silence: Duration,
) -> Result<(), Ended> {
    let mut frames = Frames::default();
    let mut buffer = BytesMut::with_capacity(BUFFER);
    loop {
        let read = tokio::time::timeout(silence, nsqd.read_buf(&mut buffer));
        if read.await.map_err(|_| Ended::Silent(silence))?? == 0 {
            return Err(Ended::Closed);
        }
        let sound = frames.sound(&buffer)?;
        client.write_all(buffer.get(..sound).unwrap_or_default()).await?;
        buffer.advance(sound);
        buffer.reserve(BUFFER);
    }
}

/// Follows the frames in a stream of bytes.
#[derive(Default)]
struct Frames {
    /// Bytes of the present frame that are still to come.
    rest: usize,
}

impl Frames {
    /// How many bytes of `next`, which goes on where the last call's sound bytes ended, belong to frames
    /// whose heads were seen and are fine. A head that is not complete yet is not among them.
    fn sound(&mut self, next: &[u8]) -> Result<usize, Ended> {
        let mut sound = 0;
        loop {
            let here = self.rest.min(next.len() - sound);
            self.rest -= here;
            sound += here;
            let Some((&head, _)) = next.get(sound..).and_then(<[u8]>::split_first_chunk::<8>) else {
                return Ok(sound);
            };
            let [s0, s1, s2, s3, t0, t1, t2, t3] = head;
            let (size, kind) = (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([t0, t1, t2, t3]));
            let least = match kind {
                0 | 1 => 4, // a response or an error
                2 => MESSAGE_MIN,
                unknown => return Err(Ended::FrameType(unknown)),
            };
            if size < least || size > MAX_FRAME {
                return Err(Ended::FrameSize(size));
            }
            // The size counts the type, but not itself.
            self.rest = 4 + size as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    fn frame(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut frame = (u32::try_from(body.len()).unwrap() + 4).to_be_bytes().to_vec();
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }

    fn pass(bytes: &[u8]) -> Result<usize, String> {
        Frames::default().sound(bytes).map_err(|ended| ended.to_string())
    }

    #[test]
    fn sound_frames_pass_and_a_head_that_is_cut_waits() {
        let mut stream = frame(0, b"OK");
        stream.extend(frame(2, &[7; 26]));
        let whole = stream.len();
        stream.extend(&frame(1, b"E_X")[..7]);
        assert_eq!(pass(&stream), Ok(whole));
    }

    #[test]
    fn faults_20_hostile_frames_do_not_pass() {
        assert!(pass(b"\xff\xff\xff\xff\0\0\0\x02").is_err());
        assert!(pass(&frame(2, &[0; 3])).is_err());
        assert!(pass(&frame(3, b"x")).is_err());
        assert!(pass(b"\0\0\0\0\0\0\0\0").is_err());
    }

    proptest! {
        #[test]
        fn frames_pass_whole_however_they_are_cut(
            bodies in proptest::collection::vec((0u32..3, 26usize..80), 1..8),
            cuts in proptest::collection::vec(1usize..40, 1..40),
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|(kind, len)| frame(*kind, &vec![1; *len])).collect();
            let (mut frames, mut passed, mut seen) = (Frames::default(), 0, 0);
            for cut in cuts.iter().cycle() {
                seen = (seen + cut).min(stream.len());
                passed += frames.sound(&stream[passed..seen]).unwrap();
                if seen == stream.len() {
                    break;
                }
            }
            prop_assert_eq!(passed, stream.len());
        }

        #[test]
        fn any_bytes_pass_or_end_the_relay(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(passed) = pass(&bytes) {
                prop_assert!(passed <= bytes.len());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_identify_asks_for_a_quick_heartbeat() {
        let (mut client, client_end) = tokio::io::duplex(1024);
        let (mut nsqd, nsqd_end) = tokio::io::duplex(1024);
        tokio::spawn(relay(client_end, nsqd_end, SILENCE));
        client.write_all(b"  V2IDENTIFY\n\0\0\0\x0b{\"a\":\"b\\n\"}SUB t c\n").await.unwrap();
        let mut got = vec![0; 13];
        nsqd.read_exact(&mut got).await.unwrap();
        let len = nsqd.read_u32().await.unwrap();
        let mut body = vec![0; len as usize];
        nsqd.read_exact(&mut body).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body, serde_json::json!({"a": "b\n", "heartbeat_interval": 2500}));
        let mut rest = vec![0; 8];
        nsqd.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, b"SUB t c\n");
    }

    #[tokio::test(start_paused = true)]
    async fn faults_13_silence_ends_the_relay() {
        let (_client, client_end) = tokio::io::duplex(1024);
        let (mut nsqd, nsqd_end) = tokio::io::duplex(1024);
        let begun = tokio::time::Instant::now();
        let relay = tokio::spawn(relay(client_end, nsqd_end, SILENCE));
        tokio::time::sleep(SILENCE / 2).await;
        nsqd.write_all(&frame(0, b"_heartbeat_")).await.unwrap();
        assert!(matches!(relay.await.unwrap(), Ended::Silent(_)));
        assert_eq!(begun.elapsed(), SILENCE * 3 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn either_end_closing_ends_the_relay() {
        let (client, client_end) = tokio::io::duplex(1024);
        let (nsqd, nsqd_end) = tokio::io::duplex(1024);
        let task = tokio::spawn(relay(client_end, nsqd_end, SILENCE));
        drop(nsqd);
        assert!(matches!(task.await.unwrap(), Ended::Closed));
        drop(client);
    }
}
