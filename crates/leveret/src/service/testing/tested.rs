//! A service in a world: started, and started again after each crash.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
};

use super::{Shared, broker::LivedBroker, documents::LivedDocuments, life::Life};
use crate::{
    broker::{Broker, BrokerError, Message},
    crash::Point,
    service::{
        CallError, Decider, Documents, Effect, Key, Performed, Service, desk::Now,
        documents::memory::MemoryDocuments,
    },
};

/// Where a service can crash.
const POINTS: [Point; 7] = [
    Point::ServiceBeforeCommit,
    Point::ServiceAfterCommit,
    Point::RelayBeforePublish,
    Point::RelayAfterPublish,
    Point::EffectBeforeCall,
    Point::EffectAfterCall,
    Point::BrokerBeforeAck,
];

/// Makes a service.
pub(super) type Make = Arc<dyn Fn(Parts) -> Service + Send + Sync>;

/// What one life of a service is made of.
#[derive(Clone)]
#[non_exhaustive]
pub struct Parts {
    /// Its documents.
    pub documents: Arc<dyn Documents>,
    /// Its broker.
    pub broker: Arc<dyn Broker>,
    /// The world's time.
    pub now: Now,
    life: Arc<Life>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl Parts {
    /// An effect before and after whose calls the service can crash.
    pub fn effect<E>(&self, effect: E) -> Watched<E> {
        Watched {
            effect,
            life: self.life.clone(),
        }
    }
}

/// An effect, watched for crashes.
#[derive(Debug)]
pub struct Watched<E> {
    effect: E,
    life: Arc<Life>,
}

#[async_trait]
impl<E: Effect> Effect for Watched<E> {
    type Decider = E::Decider;

    async fn perform(&self, intent: &Message, attempt: u32) -> Performed<E::Decider> {
        self.life.come_to(Point::EffectBeforeCall).await;
        self.life
            .note(format_args!("performs an intent, attempt {attempt}"));
        let performed = self.effect.perform(intent, attempt).await;
        self.life.come_to(Point::EffectAfterCall).await;
        performed
    }

    fn given_up(&self, intent: &Message, reason: &str) -> Option<<E::Decider as Decider>::Message> {
        self.effect.given_up(intent, reason)
    }
}

/// The point at which a service is to crash, and how often it has yet to come there.
#[derive(Debug, Default)]
pub(super) struct Armed(Mutex<Option<(Point, u32)>>);

impl Armed {
    fn lock(&self) -> MutexGuard<'_, Option<(Point, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the service crashes here: once.
    pub(super) fn is_crash(&self, point: Point) -> bool {
        let mut armed = self.lock();
        match &mut *armed {
            Some((at, times)) if *at == point => {
                *times -= 1;
                let is_crash = *times == 0;
                if is_crash {
                    *armed = None;
                }
                is_crash
            }
            _ => false,
        }
    }
}

/// A service in a world. Clones are the same one.
#[derive(Clone, Debug)]
pub struct TestedService(pub(super) Arc<Instance>);

/// What outlives its crashes.
pub(super) struct Instance {
    pub(super) name: Arc<str>,
    pub(super) documents: MemoryDocuments,
    pub(super) make: Make,
    armed: Arc<Armed>,
    lives: AtomicU32,
    current: Mutex<Option<(Arc<Life>, Service)>>,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl TestedService {
    /// Crashes, and starts again.
    pub fn crash(&self) {
        let (life, _) = self.0.current();
        life.note(format_args!("crashes"));
        life.end();
    }

    /// Crashes when it next comes to this point, and starts again.
    ///
    /// # Panics
    /// When it is no point of services.
    pub fn crash_at(&self, point: Point) {
        self.crash_at_nth(point, 1);
    }

    /// Crashes when it has come to this point so often, and starts again.
    ///
    /// # Panics
    /// When it is no point of services, or the count is 0.
    pub fn crash_at_nth(&self, point: Point, times: u32) {
        assert!(POINTS.contains(&point), "{point} is no point of services");
        assert!(times > 0, "a crash the zeroth time");
        *self.0.armed.lock() = Some((point, times));
    }

    /// How often it has crashed.
    pub fn crashes(&self) -> u32 {
        self.0.lives.load(Ordering::Relaxed) - 1
    }

    /// The service in its present life. What is asked of it when that is over never answers.
    pub fn service(&self) -> Service {
        self.0.current().1
    }

    /// [`Service::call`]; none, if it crashes meanwhile: then what was asked for has happened or not.
    pub async fn call<D: Decider>(
        &self,
        decider: &D,
        message: &D::Message,
    ) -> Option<Result<D::Answer, CallError>> {
        let (life, service) = self.0.current();
        tokio::select! {
            biased;
            answer = service.call(decider, message) => Some(answer),
            () = life.over() => None,
        }
    }

    /// Its documents, crash or not.
    pub fn documents(&self) -> Arc<dyn Documents> {
        Arc::new(self.0.documents.clone())
    }

    /// The state of a document.
    ///
    /// # Panics
    /// When there is no such kind, or the state is none of this type.
    pub async fn state<S: DeserializeOwned>(&self, kind: &str, id: &str) -> Option<S> {
        let loaded = self.0.documents.load(&[Key::new(kind, id)]).await;
        let document = loaded.expect("the kind is declared").pop();
        let state = document.and_then(|document| document.state)?;
        Some(serde_json::from_str(state.text()).expect("the state is of this type"))
    }
}

impl Instance {
    pub(super) fn start(
        world: Arc<Shared>,
        name: &str,
        documents: MemoryDocuments,
        make: Make,
    ) -> Arc<Instance> {
        let instance = Arc::new(Instance {
            name: name.into(),
            documents,
            make,
            armed: Arc::default(),
            lives: AtomicU32::new(0),
            current: Mutex::default(),
        });
        let mut running = instance.begin(&world);
        let supervised = instance.clone();
        tokio::spawn(async move {
            loop {
                let life = supervised.current().0;
                tokio::select! {
                    biased;
                    () = life.over() => running.abort(),
                    ran = &mut running => {
                        return world.break_off(ended(&supervised.name, ran));
                    }
                }
                running = supervised.begin(&world);
            }
        });
        instance
    }

    /// Begins its next life.
    fn begin(&self, world: &Arc<Shared>) -> JoinHandle<Result<(), BrokerError>> {
        let number = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("{}#{number}", self.name);
        let life = Arc::new(Life::new(world.clone(), name, self.armed.clone()));
        life.note(format_args!("starts"));
        let clock = world.clone();
        let service = (self.make)(Parts {
            documents: Arc::new(LivedDocuments {
                inner: self.documents.clone(),
                life: life.clone(),
            }),
            broker: Arc::new(LivedBroker {
                inner: world.broker.clone(),
                life: life.clone(),
            }),
            now: Arc::new(move || clock.now()),
            life: life.clone(),
        });
        *self.lock() = Some((life, service.clone()));
        tokio::spawn(async move {
            let (_never, stopped) = watch::channel(false);
            service.run(stopped).await
        })
    }

    fn current(&self) -> (Arc<Life>, Service) {
        let current = self.lock();
        current.clone().expect("it has begun")
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Arc<Life>, Service)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has to do yet.
    pub(super) async fn waiting(&self) -> Option<String> {
        let name = &self.name;
        let deliveries = self.current().0.deliveries();
        if deliveries > 0 {
            return Some(format!("{name} has {deliveries} deliveries"));
        }
        let backlog = self.documents.backlog().await.ok()?;
        let outgoing = backlog.outgoing;
        (outgoing > 0).then(|| format!("{outgoing} messages are in the outbox of {name}"))
    }
}

fn ended(name: &str, ran: Result<Result<(), BrokerError>, JoinError>) -> String {
    match ran {
        Ok(Ok(())) => format!("{name} ended by itself"),
        Ok(Err(error)) => format!("{name} cannot run: {error}"),
        Err(error) => format!("{name} panicked: {error}"),
    }
}
