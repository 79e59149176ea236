//! Batches that form by themselves: while one call is in flight, items gather; the next call takes them all.
//!
//! One item alone never waits for company, and no task stands by: the item that finds nobody calling makes the call. Several calls may be in
//! flight; one more begins when as many items wait as those have. So few items do not wait for each other, and many share the cost of a call.
//! A call that takes longer than [`PATIENCE`] counts no more: what hangs holds back nothing but its place among the calls.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::oneshot, time::timeout};

/// How long a call holds back fewer items than it has. Many times what a commit or a confirm takes.
const PATIENCE: Duration = Duration::from_millis(50);

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
    waiting: VecDeque<Waiting<T, R>>,
    /// Calls in flight, and the one that gathers.
    calls: usize,
    /// The items of the calls in flight, but not of those that take too long.
    called: usize,
    /// A call that is about to take what waits.
    gathering: bool,
    /// Whether the last call had several items.
    company: bool,
}

struct Waiting<T, R> {
    item: T,
    answer: oneshot::Sender<R>,
    /// It goes out in one call with the one behind it.
    with_next: bool,
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

/// The call ended without an answer: it panicked, or the runtime is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    /// About `batch_max` items a call, and at most `calls_max` calls at once. `call` answers in the order of its batch.
    pub(crate) fn new<F, Fut>(batch_max: usize, calls_max: usize, call: F) -> Self
    where
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<R>> + Send + 'static,
    {
        let state = State {
            waiting: VecDeque::new(),
            calls: 0,
            called: 0,
            gathering: false,
            company: false,
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

    /// Queues an item and waits for its answer. Dropping the future does not take the item back.
    ///
    /// Whoever leads makes the first call within its own future, which saves a task and its wake-ups; dropped in the middle, it leaves the
    /// rest to a task.
    pub(crate) fn submit(&self, item: T) -> impl Future<Output = Result<R, Gone>> + use<T, R> {
        let (answer, lead) = {
            let mut state = self.shared.lock();
            (state.queue(item, false), self.shared.leads(&mut state))
        };
        let lead = lead.then(|| Lead::new(self.shared.clone()));
        async move {
            if let Some(mut lead) = lead {
                lead.first_call().await;
            }
            answer.await.map_err(|_| Gone)
        }
    }

    /// The same for several items, which go out in one call, in order: `batch_max` does not part them.
    pub(crate) fn submit_all(
        &self,
        items: Vec<T>,
    ) -> impl Future<Output = Result<Vec<R>, Gone>> + use<T, R> {
        let (answers, lead) = {
            let mut state = self.shared.lock();
            let last = items.len().saturating_sub(1);
            let queue = |(at, item)| state.queue(item, at < last);
            let answers: Vec<_> = items.into_iter().enumerate().map(queue).collect();
            (answers, self.shared.leads(&mut state))
        };
        let lead = lead.then(|| Lead::new(self.shared.clone()));
        async move {
            if let Some(mut lead) = lead {
                lead.first_call().await;
            }
            let mut results = Vec::with_capacity(answers.len());
            for answer in answers {
                results.push(answer.await.map_err(|_| Gone)?);
            }
            Ok(results)
        }
    }
}

impl<T, R> State<T, R> {
    fn queue(&mut self, item: T, with_next: bool) -> oneshot::Receiver<R> {
        let (sender, answer) = oneshot::channel();
        self.waiting.push_back(Waiting {
            item,
            answer: sender,
            with_next,
        });
        answer
    }

    /// Takes what goes into the next call.
    fn take(&mut self, batch_max: usize) -> (Vec<T>, Vec<oneshot::Sender<R>>) {
        let mut count = self.waiting.len().min(batch_max);
        while count > 0 && self.waiting[count - 1].with_next {
            count += 1;
        }
        let taken = self.waiting.drain(..count);
        taken.map(|waiting| (waiting.item, waiting.answer)).unzip()
    }
}

impl<T, R> Shared<T, R> {
    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many items wait, if there may be more of them soon.
    fn waiting(&self) -> Option<usize> {
        let state = self.lock();
        let waiting = state.waiting.len();
        let company = state.company || state.called > 0 || waiting > 1;
        (company && waiting < self.batch_max).then_some(waiting)
    }

    /// Takes the lead of one more call, if it is time for it.
    fn leads(&self, state: &mut State<T, R>) -> bool {
        let waiting = state.waiting.len();
        let due = waiting > 0 && waiting >= state.called;
        let leads = due && !state.gathering && state.calls < self.calls_max;
        if leads {
            state.calls += 1;
            state.gathering = true;
        }
        leads
    }
}

type Leading = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The lead, until a task takes it over.
struct Lead<T: Send + 'static, R: Send + 'static> {
    shared: Arc<Shared<T, R>>,
    call: Option<Leading>,
}

impl<T: Send + 'static, R: Send + 'static> Lead<T, R> {
    fn new(shared: Arc<Shared<T, R>>) -> Lead<T, R> {
        let call: Leading = Box::pin(call_once(shared.clone()));
        Lead {
            shared,
            call: Some(call),
        }
    }

    async fn first_call(&mut self) {
        if let Some(call) = &mut self.call {
            call.as_mut().await;
            self.call = None;
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Drop for Lead<T, R> {
    /// Leaves what is not done to a task: the call in the middle, and what waits.
    fn drop(&mut self) {
        let shared = self.shared.clone();
        let call = match self.call.take() {
            Some(call) => call,
            None if shared.leads_on() => Box::pin(call_once(shared.clone())),
            None => return,
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            shared.abandon();
            return;
        };
        runtime.spawn(async move {
            call.await;
            while shared.leads_on() {
                call_once(shared.clone()).await;
            }
        });
    }
}

impl<T, R> Shared<T, R> {
    /// After a call: keeps the lead for the next one, if it is time for it.
    fn leads_on(&self) -> bool {
        let mut state = self.lock();
        state.calls -= 1;
        self.leads(&mut state)
    }

    /// Gives the lead up and what waits with it: its senders are dropped, and so whoever waits learns of it.
    fn abandon(&self) {
        let mut state = self.lock();
        state.calls -= 1;
        state.gathering = false;
        state.waiting.clear();
    }
}

/// Takes what waits, calls, and answers.
async fn call_once<T: Send + 'static, R: Send + 'static>(shared: Arc<Shared<T, R>>) {
    gather(&shared).await;
    let (batch, answers, alone) = {
        let mut state = shared.lock();
        let (batch, answers) = state.take(shared.batch_max);
        state.gathering = false;
        state.company = batch.len() > 1;
        state.called += batch.len();
        (batch, answers, state.called == 1)
    };
    if batch.is_empty() {
        return;
    }
    let called = Called {
        shared: &shared,
        count: batch.len(),
    };
    let mut call = pin!(AssertUnwindSafe((shared.call)(batch)).catch_unwind());
    let results = if alone {
        // It holds back nothing, and needs no timer.
        call.await
    } else if let Ok(results) = timeout(PATIENCE, &mut call).await {
        results
    } else {
        drop(called);
        lead_beside(&shared);
        call.await
    };
    let Ok(results) = results else {
        // The answers are dropped, and so whoever waits learns of it.
        tracing::error!("a call for a batch panicked");
        return;
    };
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

/// Leaves what waits to a task, if it is time for one more call.
fn lead_beside<T: Send + 'static, R: Send + 'static>(shared: &Arc<Shared<T, R>>) {
    let leads = shared.leads(&mut shared.lock());
    if leads {
        drop(Lead::new(shared.clone()));
    }
}

/// The items of a call in flight.
struct Called<'a, T, R> {
    shared: &'a Shared<T, R>,
    count: usize,
}

impl<T, R> Drop for Called<'_, T, R> {
    fn drop(&mut self) {
        self.shared.lock().called -= self.count;
    }
}

/// Lets the tasks that are about to submit do so, as long as each round brings more: a few microseconds, no timer. Not for an item that is
/// alone.
async fn gather<T, R>(shared: &Shared<T, R>) {
    let mut before = 0;
    while let Some(now) = shared.waiting()
        && now > before
    {
        before = now;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Lets what was submitted go out.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

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
        let first = tokio::spawn(batcher.submit(1));
        settle().await;
        let rest: Vec<_> = (2..50).map(|n| tokio::spawn(batcher.submit(n))).collect();
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(2));
        for (n, answer) in (2..50).zip(rest) {
            assert_eq!(answer.await.unwrap(), Ok(n * 2));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    /// A call goes out beside another when as many items wait as that one has, not before.
    #[tokio::test]
    async fn calls_at_once_are_worth_it() {
        let gate = Arc::new(Semaphore::new(0));
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let batcher = Batcher::new(100, 4, {
            let (gate, sizes) = (gate.clone(), sizes.clone());
            move |batch: Vec<u32>| {
                sizes.lock().unwrap().push(batch.len());
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    batch
                }
            }
        });
        let submit = async |count: u32| {
            let submitted: Vec<_> = (0..count)
                .map(|n| tokio::spawn(batcher.submit(n)))
                .collect();
            settle().await;
            submitted
        };
        let mut all = submit(3).await;
        assert_eq!(*sizes.lock().unwrap(), [3]);
        all.extend(submit(2).await);
        assert_eq!(*sizes.lock().unwrap(), [3], "two would not be worth it");
        all.extend(submit(1).await);
        assert_eq!(*sizes.lock().unwrap(), [3, 3]);
        all.extend(submit(5).await);
        gate.add_permits(1);
        for answer in all.drain(..3) {
            answer.await.unwrap().unwrap();
        }
        settle().await;
        assert_eq!(*sizes.lock().unwrap(), [3, 3, 5], "five beside three are");
        gate.add_permits(2);
        for answer in all {
            answer.await.unwrap().unwrap();
        }
    }

    /// Several calls of `count` items each hang; how long the items after them take.
    async fn behind_hanging(count: usize) -> [u128; 2] {
        let batcher = Batcher::new(100, 4, |batch: Vec<bool>| async move {
            if batch[0] {
                std::future::pending::<()>().await;
            }
            batch
        });
        for _ in 0..2 {
            tokio::spawn(batcher.submit_all(vec![true; count]));
            settle().await;
        }
        let began = tokio::time::Instant::now();
        let mut took = [0; 2];
        for took in &mut took {
            assert_eq!(batcher.submit(false).await, Ok(false));
            *took = began.elapsed().as_millis();
        }
        took
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_hang_hold_nothing_back() {
        let patience = PATIENCE.as_millis();
        assert_eq!(behind_hanging(3).await, [patience; 2]);
        assert_eq!(behind_hanging(1).await, [patience; 2]);
    }

    #[tokio::test]
    async fn what_is_submitted_together_goes_out_in_one_call() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let batcher = Batcher::new(4, 1, {
            let sizes = sizes.clone();
            move |batch: Vec<u32>| {
                sizes.lock().unwrap().push(batch.len());
                async move { batch }
            }
        });
        let all = [
            batcher.submit_all(vec![1, 2, 3]),
            batcher.submit_all(vec![4, 5, 6]),
            batcher.submit_all(vec![]),
            batcher.submit_all(vec![7]),
        ];
        let answers = futures_util::future::join_all(all).await;
        let answers: Vec<u32> = answers.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(answers, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(*sizes.lock().unwrap(), [6, 1]);
    }

    #[tokio::test]
    async fn a_panic_in_the_call_fails_its_items_only() {
        let batcher = Batcher::new(10, 1, |batch: Vec<bool>| async move {
            assert!(!batch[0], "asked to panic");
            batch
        });
        assert_eq!(batcher.submit(true).await, Err(Gone));
        assert_eq!(batcher.submit_all(vec![false; 2]).await, Ok(vec![false; 2]));
    }
}
