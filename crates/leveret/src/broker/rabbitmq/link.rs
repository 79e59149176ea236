//! One connection to the broker, and the task that always keeps one.
//!
//! A [`Link`] lives until it is lost; it never recovers (lapin's own recovery stays off). The [`Keeper`] opens the next one,
//! restores the remembered topology on it, and only then hands it out. What hangs on a link (channels, receipts, unconfirmed
//! messages) is void when the link is lost.
//!
//! A link wears out: the number of a channel that the broker closed cannot be used again. The keeper replaces it well before the numbers
//! end, and those who are at work with it stay until they have finished.

use std::{
    io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_rs::Tokio;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind, Event,
    tcp::{AsyncTcpStream, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    FRAME_BYTES_MAX, backoff,
    topology::Remembered,
    transport::{self, Screened},
    wire,
};
use crate::broker::BrokerError;

/// How long one request (open a channel, declare, …) may take before the link counts as stuck.
pub(super) const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// The connection's status is looked at so often, should an event of its loss not arrive.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How to connect.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) uri: AMQPUri,
    pub(super) tls: OwnedTLSConfig,
    pub(super) name: String,
    pub(super) connect_timeout: Duration,
}

/// A connection that was opened.
pub(super) struct Link {
    connection: Connection,
    end: LineEnd,
    lost: watch::Sender<bool>,
    /// How many channels the broker closed.
    closed: AtomicU32,
    worn: watch::Sender<bool>,
    blocked: watch::Sender<Option<String>>,
}

impl Link {
    /// Connects, within the target's time.
    pub(super) async fn open(target: &Target) -> Result<Arc<Link>, BrokerError> {
        let deadline = Instant::now() + target.connect_timeout;
        let overdue = |_| BrokerError::Unavailable {
            detail: format!("no connection within {:?}", target.connect_timeout),
        };
        let end = LineEnd(Arc::default());
        let opened = timeout_at(deadline, handshake(target, end.0.clone())).await;
        let connection = opened
            .map_err(overdue)?
            .map_err(|error| connect_error(target, &error))?;
        let frame_bytes = connection.configuration().frame_max() as usize;
        if frame_bytes < FRAME_BYTES_MAX {
            let _ = connection.close(200, "frame_max".into()).now_or_never();
            return Err(BrokerError::Refused {
                detail: format!(
                    "its frames have at most {frame_bytes} bytes: set frame_max = {FRAME_BYTES_MAX} in rabbitmq.conf"
                ),
            });
        }
        let link = Arc::new(Link {
            connection,
            end,
            lost: watch::Sender::new(false),
            closed: AtomicU32::new(0),
            worn: watch::Sender::new(false),
            blocked: watch::Sender::new(None),
        });
        let events = link.connection.events_listener().boxed();
        let lost = link.lost.subscribe();
        tokio::spawn(observe(Arc::downgrade(&link), events, lost));
        Ok(link)
    }

    pub(super) fn is_up(&self) -> bool {
        !*self.lost.borrow() && self.connection.status().connected()
    }

    /// Returns when the broker takes messages from this connection, at once if it does now; `NotAccepted` at the deadline.
    pub(super) async fn unblocked_by(&self, deadline: Instant) -> Result<(), BrokerError> {
        let mut blocked = self.blocked.subscribe();
        let free = blocked.wait_for(Option::is_none);
        let waited = tokio::select! {
            waited = timeout_at(deadline, free) => waited.is_ok(),
            () = self.lost() => return Err(lost_error()),
        };
        match self.blocked_error() {
            Some(error) if !waited => Err(error),
            _ => Ok(()),
        }
    }

    /// Why the broker takes nothing from this connection now (a resource alarm), if it does not.
    fn blocked_error(&self) -> Option<BrokerError> {
        let reason = self.blocked.borrow();
        reason.as_ref().map(|reason| BrokerError::NotAccepted {
            detail: format!("the broker blocks publishers: {reason}"),
        })
    }

    /// Returns when the link is lost.
    pub(super) async fn lost(&self) {
        // The sender lives as long as `self`, so that this cannot fail.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    /// Returns when the broker has closed so many channels of the link that it should be replaced.
    async fn worn(&self) {
        // As in `lost`.
        let _ = self.worn.subscribe().wait_for(|worn| *worn).await;
    }

    fn note(&self, event: Option<Event>) {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(reason, "the broker blocks publishers");
                self.blocked.send_replace(Some(reason));
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!("the broker takes messages again");
                self.blocked.send_replace(None);
            }
            Some(Event::Error(error)) if error.is_amqp_soft_error() => self.note_closed(),
            _ => {}
        }
    }

    /// Notes that the broker closed a channel, which costs the library one of its numbers. When half of them are gone the link is worn.
    fn note_closed(&self) {
        let closed = self.closed.fetch_add(1, Relaxed).saturating_add(1);
        if closed >= u32::from(self.connection.configuration().channel_max() / 2) {
            self.worn.send_replace(true);
        }
    }

    /// A new channel. Never an error over another one.
    ///
    /// The library takes the numbers of channels in turn. At that of a channel which the broker closed it fails, with the error of then, and
    /// from then on passes it over.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        loop {
            let opening = self.connection.create_channel();
            match self.answer("channel", opening).await? {
                Ok(channel) => return Ok(channel),
                Err(error) if is_of_closed_channel(&error) => {}
                Err(error) => {
                    let is_full = matches!(error.kind(), ErrorKind::ChannelsLimitReached);
                    if is_full && self.closed.load(Relaxed) > 0 {
                        self.worn.send_replace(true);
                    }
                    return Err(wire::error(&error, "channel"));
                }
            }
        }
    }

    /// Waits for the answer to one request. When none comes, the link is given up, as the connection is half-open, unless the broker blocks
    /// it: then it reads nothing from it, and answers later.
    pub(super) async fn request<T>(
        &self,
        what: &str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        let answer = self.answer(what, request).await?;
        answer.map_err(|error| wire::error(&error, what))
    }

    async fn answer<T>(
        &self,
        what: &str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>, BrokerError> {
        tokio::select! {
            answer = timeout(REQUEST_TIME_MAX, request) => match answer {
                Ok(answer) => Ok(answer),
                Err(_) => Err(self.unanswered(what)),
            },
            () = self.lost() => Err(lost_error()),
        }
    }

    fn unanswered(&self, what: &str) -> BrokerError {
        self.blocked_error().unwrap_or_else(|| {
            self.give_up();
            BrokerError::Unavailable {
                detail: format!("{what}: no answer within {REQUEST_TIME_MAX:?}"),
            }
        })
    }

    /// Ends the connection at once.
    pub(super) fn give_up(&self) {
        self.lost.send_replace(true);
        self.end.0.cut();
    }

    /// Ends the connection in order; at once when that takes too long.
    pub(super) async fn close(&self) {
        let closing = self.connection.close(200, "closed by client".into());
        let _ = timeout(Duration::from_secs(3), closing).await;
        self.give_up();
    }
}

pub(super) fn lost_error() -> BrokerError {
    BrokerError::Unavailable {
        detail: "the connection was lost".to_owned(),
    }
}

/// Whether a channel could not be opened because the broker closed one of the same number before. Over a new one it closes nothing less than
/// the connection.
fn is_of_closed_channel(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error() || matches!(error.kind(), ErrorKind::InvalidChannelState(..))
}

/// A broker that refuses is an error to the caller; one that cannot be reached may come back.
fn connect_error(target: &Target, error: &lapin::Error) -> BrokerError {
    let authority = &target.uri.authority;
    match wire::error(error, &format!("virtual host '{}'", target.uri.vhost)) {
        BrokerError::Unavailable { detail } => BrokerError::Unavailable {
            detail: format!("{}:{}: {detail}", authority.host, authority.port),
        },
        other => other,
    }
}

/// Watches the connection's events until it is lost, or nobody has the link any more.
async fn observe(
    link: Weak<Link>,
    mut events: BoxStream<'static, Event>,
    mut lost: watch::Receiver<bool>,
) {
    let mut status = tokio::time::interval(STATUS_INTERVAL);
    loop {
        // Both streams keep their place when the other branch wins.
        let event = tokio::select! {
            event = events.next() => event,
            _ = status.tick() => None,
            _ = lost.wait_for(|lost| *lost) => return,
        };
        let Some(link) = link.upgrade() else {
            return;
        };
        link.note(event);
        if !link.connection.status().connected() {
            link.give_up();
            return;
        }
    }
}

/// Opens the socket, then speaks AMQP until the connection is ready. The socket is in the line as soon as it is there.
async fn handshake(target: &Target, line: Arc<Line>) -> lapin::Result<Connection> {
    let properties =
        ConnectionProperties::default().with_connection_name(target.name.as_bytes().into());
    let (tls, time) = (target.tls.clone(), target.connect_timeout);
    let reactor = Tokio::current();
    let connect = async move |uri: AMQPUri, _| {
        let host = (uri.authority.host.clone(), uri.authority.port);
        let addresses = tokio::net::lookup_host(host).await?.collect::<Vec<_>>();
        let connecting = AsyncTcpStream::connect(&reactor, addresses);
        let plain = timeout(time, connecting).await.map_err(io::Error::from)??;
        if let AsyncTcpStream::Plain(tcp) = &plain {
            line.open(Socket::of(tcp.get_ref())?)?;
        }
        let stream = match uri.scheme {
            AMQPScheme::AMQP => plain,
            AMQPScheme::AMQPS => plain.into_tls(&uri.authority.host, tls.as_ref()).await?,
        };
        Ok(AsyncTcpStream::Plain(Screened::new(stream)))
    };
    Connection::connector(
        target.uri.clone(),
        transport::runtime(),
        connect,
        properties,
    )
    .await
}

/// A connection's socket from outside. The client's own thread, which opens it, blocks on a peer that is silent, and goes on if whoever wants the
/// connection has gone: with the line cut it ends, now or as soon as there is a socket.
#[derive(Default)]
struct Line(Mutex<LineState>);

#[derive(Default)]
enum LineState {
    #[default]
    Opening,
    Open(Socket),
    Cut,
}

impl Line {
    fn open(&self, socket: Socket) -> io::Result<()> {
        let mut state = self.lock();
        if matches!(*state, LineState::Cut) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        *state = LineState::Open(socket);
        Ok(())
    }

    fn cut(&self) {
        if let LineState::Open(socket) = mem::replace(&mut *self.lock(), LineState::Cut) {
            socket.shut_down();
        }
    }

    fn lock(&self) -> MutexGuard<'_, LineState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts the line when it is dropped.
struct LineEnd(Arc<Line>);

impl Drop for LineEnd {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// A second handle of a socket.
struct Socket(#[cfg(unix)] std::net::TcpStream);

impl Socket {
    #[cfg(unix)]
    fn of(tcp: &tokio::net::TcpStream) -> io::Result<Socket> {
        use std::os::fd::AsFd;
        let descriptor = tcp.as_fd().try_clone_to_owned()?;
        Ok(Socket(descriptor.into()))
    }

    #[cfg(not(unix))]
    fn of(_: &tokio::net::TcpStream) -> io::Result<Socket> {
        Ok(Socket())
    }

    fn shut_down(&self) {
        #[cfg(unix)]
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// Keeps one link open until it is told to stop.
pub(super) struct Keeper {
    target: Target,
    topology: Arc<Remembered>,
    current: watch::Sender<Option<Arc<Link>>>,
    stop: watch::Sender<bool>,
}

/// How long a program that may start before its broker waits for it all the same: then a wrong login shows at once.
const LATE_WAIT: Duration = Duration::from_secs(1);

impl Keeper {
    /// Opens the first link; an error if that fails, for whatever reason, unless the link may come `late` and nobody answers now.
    pub(super) async fn start(
        target: Target,
        topology: Arc<Remembered>,
        late: bool,
    ) -> Result<Arc<Keeper>, BrokerError> {
        let opened = if late {
            let opened = timeout(LATE_WAIT, Link::open(&target)).await;
            opened.unwrap_or_else(|_| {
                Err(BrokerError::Unavailable {
                    detail: format!("no connection within {LATE_WAIT:?}"),
                })
            })
        } else {
            Link::open(&target).await
        };
        let first = match opened {
            Ok(first) => Some(first),
            Err(error) if late && error.is_retryable() => {
                tracing::warn!(connection = target.name, %error, "the broker is not there yet; connecting when it is");
                None
            }
            Err(error) => return Err(error),
        };
        let keeper = Arc::new(Keeper {
            target,
            topology,
            current: watch::Sender::new(first),
            stop: watch::Sender::new(false),
        });
        tokio::spawn(keeper.clone().run());
        Ok(keeper)
    }

    /// Whether the link is up.
    pub(super) fn is_up(&self) -> bool {
        self.current
            .borrow()
            .as_ref()
            .is_some_and(|link| link.is_up())
    }

    /// Whether this is the link that new work goes to.
    pub(super) fn is_current(&self, link: &Arc<Link>) -> bool {
        let current = self.current.borrow();
        current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
    }

    /// The link, as soon as there is one; `Unavailable` at the deadline.
    pub(super) async fn link_by(&self, deadline: Instant) -> Result<Arc<Link>, BrokerError> {
        match timeout_at(deadline, self.link()).await {
            Ok(link) => link,
            Err(_) => Err(BrokerError::Unavailable {
                detail: "not connected, connecting again".to_owned(),
            }),
        }
    }

    /// The link, as soon as there is one; `Closed` when the keeper has stopped.
    pub(super) async fn link(&self) -> Result<Arc<Link>, BrokerError> {
        let mut current = self.current.subscribe();
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(BrokerError::Closed),
            link = current.wait_for(|link| link.as_ref().is_some_and(|link| link.is_up())) => {
                let link = link.ok().and_then(|link| link.clone());
                link.ok_or(BrokerError::Closed)
            }
        }
    }

    /// Ends the link at once, and opens no other.
    pub(super) fn abandon(&self) {
        self.stop.send_replace(true);
        if let Some(link) = self.current.send_replace(None) {
            link.give_up();
        }
    }

    /// Closes the link in order, and opens no other. Idempotent.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        let link = self.current.send_replace(None);
        if let Some(link) = link {
            link.close().await;
        }
    }

    async fn run(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let mut failed = 0;
        loop {
            let link = self.current.borrow().clone();
            if let Some(link) = link {
                let opened = Instant::now();
                tokio::select! {
                    () = link.lost() => {
                        self.current.send_replace(None);
                        failed = backoff::after_loss(failed, opened.elapsed());
                        tracing::warn!(
                            connection = self.target.name,
                            "the connection to the broker was lost, connecting again"
                        );
                    }
                    () = link.worn() => {
                        failed = 0;
                        tracing::info!(
                            connection = self.target.name,
                            "the broker closed many channels of this connection, opening another one"
                        );
                    }
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            } else {
                // It never was there.
                failed = 1;
            }
            tokio::select! {
                link = self.reconnect(&mut failed) => {
                    tracing::info!(connection = self.target.name, "connected to the broker");
                    // One that was worn ends with the last who works with it.
                    self.current.send_replace(Some(link));
                }
                _ = stop.wait_for(|stop| *stop) => return,
            }
            // Stopped in between: whoever stopped saw no link to close.
            if *stop.borrow() {
                if let Some(link) = self.current.send_replace(None) {
                    link.close().await;
                }
                return;
            }
        }
    }

    /// Tries for ever, after so many failures. The link it returns has the remembered topology.
    async fn reconnect(&self, failed: &mut u32) -> Arc<Link> {
        loop {
            backoff::wait(*failed).await;
            let attempt = async {
                let link = Link::open(&self.target).await?;
                self.topology.restore(&link).await?;
                Ok::<_, BrokerError>(link)
            };
            match attempt.await {
                Ok(link) => return link,
                Err(error) => tracing::debug!(
                    connection = self.target.name,
                    %error,
                    attempt = failed.saturating_add(1),
                    "connecting to the broker failed"
                ),
            }
            *failed = failed.saturating_add(1);
        }
    }
}
