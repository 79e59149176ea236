//! Work that a client began and that goes on when the client goes away.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// A future that is polled in place, at no cost but an allocation; dropped unfinished, it is handed to the runtime and goes
/// on there for at most `bound`.
pub(super) struct Detached<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    bound: Duration,
}

impl<T: Send + 'static> Detached<T> {
    pub(super) fn new(
        bound: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Detached<T> {
        Detached {
            future: Some(Box::pin(future)),
            bound,
        }
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let future = self
            .future
            .as_mut()
            .expect("a future is not polled after its end");
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take()
            && !std::thread::panicking()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(self.bound, future));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A future dropped in the middle comes to its end nevertheless, and one that ended is not begun again.
    #[tokio::test]
    async fn goes_on_without_its_owner() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let mut detached = Detached::new(Duration::from_secs(60), async move {
            gone.await.unwrap();
            done.send(7).unwrap();
        });
        assert!(futures_util::FutureExt::now_or_never(&mut detached).is_none());
        drop(detached);
        go.send(()).unwrap();
        assert_eq!(finished.await, Ok(7));
        assert_eq!(Detached::new(Duration::ZERO, async { 1 }).await, 1);
    }
}
