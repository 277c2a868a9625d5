//! Threads that serve the same listeners: told together to begin and to leave, and asked whether they still answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{SetOnce, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::server::Leave;

/// How a thread ended: the number of connections that were cut off, or why it could not go on.
type Ended = anyhow::Result<usize>;

/// Threads that were started.
pub(super) struct Crew {
    begin: watch::Sender<bool>,
    leave: Arc<SetOnce<Leave>>,
    /// Somebody else has their listeners as well.
    listeners_are_shared: bool,
    asked: Vec<mpsc::Sender<Question>>,
    sender: mpsc::UnboundedSender<Ended>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

/// Whether a thread still answers: it does.
type Question = oneshot::Sender<()>;

impl Crew {
    pub(super) fn new(listeners_are_shared: bool) -> Self {
        let (sender, ended) = mpsc::unbounded_channel();
        let (begin, leave) = Default::default();
        Self { begin, leave, listeners_are_shared, asked: Vec::new(), sender, ended }
    }

    /// Starts a thread.
    pub(super) fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce(Post) -> Ended + Send + 'static,
    ) -> anyhow::Result<()> {
        let (asked, questions) = mpsc::channel(1);
        let begin = self.begin.subscribe();
        let post = Post { begin, leave: self.leave.clone(), questions: Questions(questions) };
        let panicked = Panicked(Some(self.sender.clone()));
        thread::Builder::new().name(name).spawn(move || panicked.report(run(post)))?;
        self.asked.push(asked);
        Ok(())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.asked.len()
    }

    /// Resolves when each has answered.
    ///
    /// # Errors
    /// When one ends instead.
    pub(super) async fn all_answer(&mut self) -> anyhow::Result<()> {
        for thread in &self.asked {
            if !answers(thread).await {
                return Err(self.one_ended().await);
            }
        }
        Ok(())
    }

    /// Tells all of them to begin. Where that never happens, they end with what is left of the crew.
    pub(super) fn begin(&self) {
        self.begin.send_replace(true);
    }

    /// Resolves when one has ended though nobody told it to leave.
    pub(super) async fn one_ended(&mut self) -> anyhow::Error {
        match self.ended.recv().await {
            Some(Err(error)) => error,
            Some(Ok(_)) | None => anyhow::anyhow!("a worker ended by itself"),
        }
    }

    /// Tells all of them to leave.
    pub(super) fn leave(&self, how: Leave) {
        let how = if self.listeners_are_shared { Leave::HandOver } else { how };
        let _ = self.leave.set(how); // or they know
    }

    /// Waits for the end of all of them. Returns how many connections were cut off.
    pub(super) async fn ended(self) -> usize {
        let Self { sender, mut ended, .. } = self;
        drop(sender);
        let mut cut_off = 0;
        while let Some(ended) = ended.recv().await {
            cut_off += ended.unwrap_or(0);
        }
        cut_off
    }

    /// What tells whether they answer.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse(self.asked.clone())
    }
}

/// Whether threads answer.
pub(super) struct Pulse(Vec<mpsc::Sender<Question>>);

impl Pulse {
    /// Asks each. One that has ended is no longer asked for an answer.
    pub(super) async fn is_felt(&self, within: Duration) -> bool {
        let all = async {
            for thread in &self.0 {
                let _ = answers(thread).await; // or it has ended
            }
        };
        timeout(within, all).await.is_ok()
    }
}

/// Waits until a thread answers; false if it ends instead.
async fn answers(thread: &mpsc::Sender<Question>) -> bool {
    let (question, answer) = oneshot::channel();
    thread.send(question).await.is_ok() && answer.await.is_ok()
}

/// What a thread is told and asked.
pub(super) struct Post {
    /// From when that is true it serves; if that never comes, it ends.
    pub(super) begin: watch::Receiver<bool>,
    pub(super) leave: Arc<SetOnce<Leave>>,
    pub(super) questions: Questions,
}

/// Whether it still answers, each time that somebody asks.
pub(super) struct Questions(mpsc::Receiver<Question>);

impl Questions {
    /// Answers, for as long as it is polled.
    pub(super) async fn answer(mut self) -> Infallible {
        while let Some(question) = self.0.recv().await {
            let _ = question.send(()); // or nobody waits any more
        }
        std::future::pending().await
    }
}

/// Reports a panic if nothing else was reported: a thread that is gone must not go unnoticed.
struct Panicked(Option<mpsc::UnboundedSender<Ended>>);

impl Panicked {
    fn report(mut self, result: Ended) {
        if let Some(ended) = self.0.take() {
            let _ = ended.send(result); // nobody listens once the gateway is gone
        }
    }
}

impl Drop for Panicked {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            let _ = ended.send(Err(anyhow::anyhow!("a worker panicked")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(100);

    fn thread(crew: &mut Crew, run: impl FnOnce(Post) -> Ended + Send + 'static) {
        crew.spawn("thread".to_owned(), run).unwrap();
    }

    fn answering(Post { leave, questions, .. }: Post) -> Ended {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                _ = leave.wait() => Ok(2),
                never = questions.answer() => match never {},
            }
        })
    }

    #[tokio::test]
    async fn one_that_hangs_has_no_pulse_and_those_that_have_ended_do_not_count() {
        let mut crew = Crew::new(false);
        thread(&mut crew, answering);
        assert!(crew.pulse().is_felt(10 * WITHIN).await);
        let (go_on, hang) = std::sync::mpsc::channel::<()>();
        thread(&mut crew, move |_post| {
            let _ = hang.recv();
            Ok(1)
        });
        let pulse = crew.pulse();
        assert!(!pulse.is_felt(WITHIN).await);
        assert!(!pulse.is_felt(WITHIN).await, "still not");
        crew.leave(Leave::Close);
        drop(go_on);
        assert_eq!(crew.ended().await, 3);
        assert!(pulse.is_felt(10 * WITHIN).await);
    }

    #[tokio::test]
    async fn one_that_ends_before_it_answers_is_told() {
        let mut crew = Crew::new(false);
        thread(&mut crew, answering);
        crew.all_answer().await.unwrap();
        thread(&mut crew, |_post| Err(anyhow::anyhow!("on purpose")));
        assert_eq!(crew.all_answer().await.unwrap_err().to_string(), "on purpose");
    }

    #[tokio::test]
    async fn those_that_never_begin_end_with_the_crew() {
        for begins in [true, false] {
            let mut crew = Crew::new(false);
            let (tell, told) = oneshot::channel();
            thread(&mut crew, move |mut post| {
                let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                let begun = runtime.block_on(post.begin.wait_for(|begun| *begun)).is_ok();
                let _ = tell.send(begun);
                Ok(0)
            });
            if begins {
                crew.begin();
            }
            drop(crew);
            assert_eq!(told.await, Ok(begins));
        }
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let mut crew = Crew::new(false);
        thread(&mut crew, |_post| panic!("on purpose"));
        assert_eq!(crew.one_ended().await.to_string(), "a worker panicked");
    }

    #[tokio::test]
    async fn listeners_that_somebody_else_has_are_never_closed() {
        for (shared, how) in [(true, Leave::HandOver), (false, Leave::Close)] {
            let crew = Crew::new(shared);
            crew.leave(Leave::Close);
            assert_eq!(crew.leave.get(), Some(&how));
        }
    }
}
