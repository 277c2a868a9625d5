//! How many connections there may be, which may change while there are some.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// The places of all workers together.
pub struct Places {
    semaphore: Arc<Semaphore>,
    /// Those that are free or taken.
    exist: usize,
    wanted: usize,
}

impl Places {
    /// So many.
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self { semaphore: Arc::new(Semaphore::new(most)), exist: most, wanted: most }
    }

    /// What a place is taken from.
    pub fn semaphore(&self) -> Arc<Semaphore> {
        self.semaphore.clone()
    }

    /// From now on so many. Nobody loses a place: those that are taken and too many go as they become free, for as long as
    /// [`settle`](Self::settle) is polled.
    pub fn set(&mut self, most: usize) {
        self.wanted = most.min(Semaphore::MAX_PERMITS);
        self.semaphore.add_permits(self.wanted.saturating_sub(self.exist));
        self.exist = self.exist.max(self.wanted);
        self.exist -= self.semaphore.forget_permits(self.exist - self.wanted);
    }

    /// Takes places away that are too many, before anybody new gets them. Resolves when some have gone, and never if there
    /// are none. May be dropped at any point.
    pub async fn settle(&mut self) {
        let too_many = u32::try_from(self.exist.saturating_sub(self.wanted)).unwrap_or(u32::MAX);
        if too_many == 0 {
            return pending().await;
        }
        match self.semaphore.acquire_many(too_many).await {
            Ok(gone) => {
                self.exist -= gone.num_permits();
                gone.forget();
            }
            Err(_closed) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_that_are_taken_go_when_they_become_free_and_before_anybody_new_gets_them() {
        let mut places = Places::new(3);
        let semaphore = places.semaphore();
        let mut taken: Vec<_> = (0..3).map(|_| semaphore.clone().try_acquire_owned().unwrap()).collect();
        places.set(1);
        let long = Duration::from_secs(60);
        assert!(timeout(long, places.settle()).await.is_err(), "all are taken");
        {
            let mut settled = std::pin::pin!(places.settle());
            assert!(timeout(long, settled.as_mut()).await.is_err());
            let newcomer = tokio::spawn(semaphore.clone().acquire_owned());
            drop(taken.pop());
            drop(taken.pop());
            settled.await;
            assert!(!newcomer.is_finished());
            newcomer.abort();
        }
        assert_eq!(semaphore.available_permits(), 0);
        drop(taken);
        assert_eq!(semaphore.available_permits(), 1);
        assert!(timeout(long, places.settle()).await.is_err(), "there is nothing to take away");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_more_at_once_and_fewer_at_once_where_they_are_free() {
        let mut places = Places::new(2);
        let semaphore = places.semaphore();
        for (most, free) in [(5, 5), (1, 1), (4, 4)] {
            places.set(most);
            assert_eq!(semaphore.available_permits(), free);
        }
        let taken: Vec<_> = (0..4).map(|_| semaphore.clone().try_acquire_owned().unwrap()).collect();
        places.set(1);
        places.set(3);
        drop(taken);
        places.settle().await;
        assert_eq!(semaphore.available_permits(), 3);
    }
}
