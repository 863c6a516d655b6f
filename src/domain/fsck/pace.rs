//! So many bytes a second, and no more.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub(super) struct Pace {
    /// In bytes a second.
    rate: Option<u64>,
    /// When those that were read so far are paid for.
    next: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            next: Instant::now(),
        }
    }

    /// Waits until so many bytes may have been read. Time that passed unused is not made up for.
    pub(super) async fn keep(&mut self, bytes: u64) {
        let Some(rate) = self.rate else {
            return;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.next = self.next.max(Instant::now()) + takes;
        sleep_until(self.next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rate_is_kept_and_a_pause_is_not_made_up_for() {
        let began = Instant::now();
        let mut pace = Pace::new(Some(10_000));
        for _ in 0..10 {
            pace.keep(100).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(100));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let paused = Instant::now();
        pace.keep(500).await;
        assert!(paused.elapsed() >= Duration::from_millis(50));
        let free = Instant::now();
        Pace::new(None).keep(u64::MAX).await;
        assert!(free.elapsed() < Duration::from_secs(60));
    }
}
