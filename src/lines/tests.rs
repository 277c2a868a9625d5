use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use super::*;

const SETTINGS: Settings = Settings { most_bytes: 4096, rest: Duration::ZERO };
const LONG: Duration = Duration::from_secs(20);

/// A running writer, and what it told.
struct Running {
    lines: Lines,
    told: Receiver<String>,
    thread: JoinHandle<()>,
}

fn run(output: Output, settings: Settings) -> Running {
    let (lines, writer) = over(output, settings);
    let (sender, told) = channel();
    let thread = thread::spawn(move || {
        writer.run(|notice| {
            let _ = sender.send(match notice {
                Notice::Lost(lines) => format!("lost {lines}"),
                Notice::Failing(error) => error.to_string(),
            });
        });
    });
    Running { lines, told, thread }
}

fn to_pipe() -> (PipeReader, Running) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, run(Output::new(File::from(OwnedFd::from(writer)), None), SETTINGS))
}

#[test]
fn lines_come_out_whole_and_each_queues_in_order_and_then_the_writer_ends() {
    let (reader, running) = to_pipe();
    let reading = thread::spawn(|| BufReader::new(reader).lines().map(Result::unwrap).collect::<Vec<_>>());
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let lines = if n % 2 == 0 { running.lines.queue() } else { running.lines.clone() };
            thread::spawn(move || {
                for line in 0..500 {
                    lines.push(format!("{n} {line} {}\n", "x".repeat(line % 50)).as_bytes());
                    if line % 20 == 0 {
                        assert!(lines.flush(LONG));
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let lost = running.lines.lost();
    drop(running.lines);
    running.thread.join().unwrap();
    let read = reading.join().unwrap();
    assert_eq!((lost.count(), read.len()), (0, 2000));
    for n in 0..4 {
        let own = read.iter().filter_map(|line| line.strip_prefix(&format!("{n} ")));
        let expected = (0..500).map(|line| format!("{line} {}", "x".repeat(line % 50)));
        assert!(own.eq(expected), "of {n}");
    }
}

#[test]
fn what_is_written_as_one_line_comes_out_as_one() {
    let (reader, running) = to_pipe();
    for text in ["one\n", "two\nERROR forged\r\n", "three\rfour\n"] {
        io::Write::write_all(&mut &running.lines, text.as_bytes()).unwrap();
    }
    drop(running.lines);
    assert_eq!(io::read_to_string(reader).unwrap(), "one\ntwo\\nERROR forged\\r\nthree\\rfour\n");
}

#[test]
fn a_reader_that_stops_costs_lines_which_are_counted_and_told_of() {
    let (mut reader, running) = to_pipe();
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let mut pushed = 0;
    while running.lines.flush(Duration::from_millis(200)) {
        assert_eq!(running.lines.lost().count(), 0);
        for _ in 0..40 {
            running.lines.push(&line);
            pushed += 1;
        }
    }
    // The pipe is full now, and the writer stuck.
    for _ in 0..1000 {
        running.lines.push(&line);
        pushed += 1;
    }
    let lost = running.lines.lost().count();
    assert!(lost >= 1000 - 41, "only {lost} were lost");
    assert!(running.told.try_recv().is_err(), "nothing comes through yet");
    // Whoever reads goes on.
    let mut first = vec![0; line.len()];
    reader.read_exact(&mut first).unwrap();
    let reading = thread::spawn(|| BufReader::new(reader).lines().map(Result::unwrap).collect::<Vec<_>>());
    assert_eq!(running.told.recv_timeout(LONG).unwrap(), format!("lost {lost}"));
    running.lines.push(b"again\n");
    drop(running.lines);
    running.thread.join().unwrap();
    let read = reading.join().unwrap();
    assert_eq!(read.last().unwrap(), "again");
    assert_eq!(1 + read.len() as u64 + lost, pushed + 1);
}

#[test]
fn a_full_disk_costs_lines_and_is_told_of_once() {
    let running = run(Output::new(File::options().write(true).open("/dev/full").unwrap(), None), SETTINGS);
    for n in 1..=3 {
        running.lines.push(b"one\n");
        running.lines.push(b"two\n");
        assert!(running.lines.flush(LONG));
        assert_eq!(running.lines.lost().count(), 2 * n);
    }
    drop(running.lines);
    running.thread.join().unwrap();
    let told: Vec<_> = running.told.iter().collect();
    assert!(told.len() == 1 && told[0].starts_with("No space left"), "{told:?}");
}

#[test]
fn a_line_longer_than_the_memory_is_lost_alone() {
    let (reader, running) = to_pipe();
    running.lines.push(&[b'x'; 4097]);
    running.lines.push(b"short\n");
    assert!(running.lines.flush(LONG));
    assert_eq!(running.lines.lost().count(), 1);
    drop(running.lines);
    assert_eq!(io::read_to_string(reader).unwrap(), "short\n");
}

#[test]
fn a_file_that_is_renamed_away_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let [path, old] = ["log", "log.1"].map(|name| dir.path().join(name));
    fs::write(&path, "before\n").unwrap();
    let running = run(Output::open(&Destination::File(path.clone())).unwrap(), SETTINGS);
    let push = |line: &str| {
        running.lines.push(line.as_bytes());
        assert!(running.lines.flush(LONG));
    };
    push("one\n");
    fs::rename(&path, &old).unwrap();
    running.lines.reopen();
    push("two\n");
    assert_eq!(fs::read_to_string(&old).unwrap(), "before\none\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    // Nobody says so: it is noticed.
    fs::remove_file(&path).unwrap();
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < LONG, "the file does not come back");
        push("three\n");
        thread::park_timeout(Duration::from_millis(20));
    }
    assert!(fs::read_to_string(&path).unwrap().starts_with("three\n"));
    assert_eq!(running.lines.lost().count(), 0);
}

#[test]
fn what_a_full_disk_has_left_of_a_line_is_not_made_a_part_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "whole\nha").unwrap();
    let running = run(Output::open(&Destination::File(path.clone())).unwrap(), SETTINGS);
    let push = |line: &str| {
        running.lines.push(line.as_bytes());
        assert!(running.lines.flush(LONG));
    };
    push("one\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nha\none\n");
    fs::write(&path, "hal").unwrap();
    running.lines.reopen();
    push("two\n");
    running.lines.reopen();
    push("three\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "hal\ntwo\nthree\n");
}

#[test]
fn a_pipe_by_its_name_is_refused_before_it_holds_anybody_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = to(&Destination::File(path), SETTINGS).err().unwrap();
    assert!(error.to_string().contains("not a file"), "{error}");
}

#[test]
fn a_busy_writer_rests_until_half_of_the_memory_is_used() {
    let rest = LONG * 10;
    let (reader, writer) = io::pipe().unwrap();
    let settings = Settings { rest, ..SETTINGS };
    let running = run(Output::new(File::from(OwnedFd::from(writer)), None), settings);
    let mut reader = BufReader::new(reader);
    running.lines.push(b"first\n");
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    let begun = Instant::now();
    for n in 0..300 {
        running.lines.push(format!("{n:09}\n").as_bytes());
    }
    for n in 0..205 {
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{n:09}\n"));
    }
    assert!(begun.elapsed() < rest / 2);
}
