//! A child process that does not outlive its test, and whose lines can be waited for.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::within;

/// A child process. Killed when dropped.
pub struct Process {
    child: Child,
    name: String,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts it with both outputs collected.
    pub fn start(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Starts it with these listeners as its file descriptors 0 and 1; what it says on stderr is collected.
    pub fn start_with_listeners(command: &mut Command, listeners: &[&TcpListener]) -> Self {
        let mut given =
            listeners.iter().map(|listener| Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
        command.stdin(given.next().unwrap_or_else(Stdio::null));
        command.stdout(given.next().unwrap_or_else(Stdio::null));
        assert!(given.next().is_none());
        Self::spawn(command.stderr(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Self {
        let name = command.get_program().display().to_string();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let lines = Arc::default();
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|stdout| collect(stdout, Arc::clone(&lines))));
        readers.extend(child.stderr.take().map(|stderr| collect(stderr, Arc::clone(&lines))));
        Self { child, name, lines, readers }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The kernel's number for it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line of which `find` makes something.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        self.within(Duration::from_secs(20), what, |lines| lines.iter().find_map(|line| find(line)))
    }

    /// How many lines contain a text.
    pub fn count(&self, text: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    #[track_caller]
    fn within<T>(&self, limit: Duration, what: &str, mut find: impl FnMut(&[String]) -> Option<T>) -> T {
        let deadline = std::time::SystemTime::now() + limit;
        loop {
            if let Some(found) = find(&self.lines.lock().unwrap()) {
                return found;
            }
            let late = std::time::SystemTime::now() >= deadline;
            assert!(!late, "{}: no {what} within {limit:?} in:\n{}", self.name, self.output());
            super::pause(Duration::from_millis(5));
        }
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end; then its output is complete.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = within(Duration::from_secs(40), &format!("{} to end", self.name), || {
            self.child.try_wait().unwrap()
        });
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} printed:\n{}", self.name, self.output());
        }
    }
}

fn collect(
    stream: impl Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    })
}
