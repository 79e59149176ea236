//! Batches that form by themselves: while one call is in flight, items gather; the next call takes them all.
//!
//! One item alone never waits for company. There is no timer and no task of its own: the item that finds nobody calling leads the calls
//! until nothing waits.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

type Call<T, R> = dyn Fn(Vec<T>) -> Pin<Box<dyn Future<Output = Vec<R>> + Send>> + Send + Sync;

/// Gathers items into batches for a call. Clones share the queue.
pub(crate) struct Batcher<T, R> {
    shared: Arc<Shared<T, R>>,
}

struct Shared<T, R> {
    call: Box<Call<T, R>>,
    batch_max: usize,
    calls_max: usize,
    state: Mutex<State<T, R>>,
}

struct State<T, R> {
    waiting: VecDeque<(T, oneshot::Sender<R>)>,
    calls: usize,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Batcher {
            shared: self.shared.clone(),
        }
    }
}

impl<T, R> fmt::Debug for Batcher<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

/// The call ended without an answer: the runtime is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// At most `batch_max` items a call, at most `calls_max` calls at once. `call` answers in the order of its batch.
    pub(crate) fn new<F, Fut>(batch_max: usize, calls_max: usize, call: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<R>> + Send + 'static,
    {
        let state = State {
            waiting: VecDeque::new(),
            calls: 0,
        };
        Batcher {
            shared: Arc::new(Shared {
                call: Box::new(move |batch| Box::pin(call(batch))),
                batch_max,
                calls_max,
                state: Mutex::new(state),
            }),
        }
    }

    /// Queues the items at once, in order, and waits for their answers. Dropping the future does not take the items back.
    pub(crate) fn submit(
        &self,
        items: Vec<T>,
    ) -> impl Future<Output = Result<Vec<R>, Gone>> + use<T, R> {
        let (answers, lead) = {
            let mut state = self.shared.lock();
            let mut answers = Vec::new();
            for item in items {
                let (sender, receiver) = oneshot::channel();
                state.waiting.push_back((item, sender));
                answers.push(receiver);
            }
            let lead = state.calls < self.shared.calls_max && !state.waiting.is_empty();
            state.calls += usize::from(lead);
            (answers, lead)
        };
        if lead {
            tokio::spawn(lead_calls(self.shared.clone()));
        }
        async move {
            let mut results = Vec::with_capacity(answers.len());
            for answer in answers {
                results.push(answer.await.map_err(|_| Gone)?);
            }
            Ok(results)
        }
    }
}

impl<T, R> Shared<T, R> {
    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }
}

async fn lead_calls<T: Send, R: Send>(shared: Arc<Shared<T, R>>) {
    let mut leader = Leader {
        shared: &shared,
        leading: true,
    };
    loop {
        gather(&shared).await;
        let (batch, answers): (Vec<T>, Vec<_>) = {
            let mut state = shared.lock();
            let take = state.waiting.len().min(shared.batch_max);
            if take == 0 {
                state.calls -= 1;
                leader.leading = false;
                return;
            }
            state.waiting.drain(..take).unzip()
        };
        let results = (shared.call)(batch).await;
        assert_eq!(
            results.len(),
            answers.len(),
            "a batch is answered item by item"
        );
        for (answer, result) in answers.into_iter().zip(results) {
            // Nobody may wait for the answer any more.
            drop(answer.send(result));
        }
    }
}

/// Lets the tasks that are about to submit do so, as long as each round brings more: a few microseconds, no timer.
async fn gather<T, R>(shared: &Shared<T, R>) {
    let mut before = shared.waiting();
    while before < shared.batch_max {
        tokio::task::yield_now().await;
        let now = shared.waiting();
        if now <= before {
            return;
        }
        before = now;
    }
}

/// Gives the lead back if the leader's task ends before its time (a panic in the call, the end of the runtime), so that the next item
/// leads again.
struct Leader<'a, T, R> {
    shared: &'a Shared<T, R>,
    leading: bool,
}

impl<T, R> Drop for Leader<'_, T, R> {
    fn drop(&mut self) {
        if self.leading {
            let mut state = self.shared.lock();
            state.calls -= 1;
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn what_waits_during_a_call_goes_into_the_next() {
        let gate = Arc::new(Semaphore::new(0));
        let calls = Arc::new(AtomicUsize::new(0));
        let batcher = Batcher::new(100, 1, {
            let (gate, calls) = (gate.clone(), calls.clone());
            move |batch: Vec<u32>| {
                let (gate, calls) = (gate.clone(), calls.clone());
                async move {
                    gate.acquire().await.unwrap().forget();
                    calls.fetch_add(1, Ordering::SeqCst);
                    batch.into_iter().map(|n| n * 2).collect()
                }
            }
        });
        let first = tokio::spawn(batcher.submit(vec![1]));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let rest: Vec<_> = (2..50)
            .map(|n| tokio::spawn(batcher.submit(vec![n])))
            .collect();
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(vec![2]));
        for (n, answer) in (2..50).zip(rest) {
            assert_eq!(answer.await.unwrap(), Ok(vec![n * 2]));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panic_in_the_call_fails_its_items_only() {
        let batcher = Batcher::new(10, 1, |batch: Vec<bool>| async move {
            assert!(!batch[0], "asked to panic");
            batch
        });
        assert_eq!(batcher.submit(vec![true]).await, Err(Gone));
        assert_eq!(batcher.submit(vec![false]).await, Ok(vec![false]));
    }
}
