//! Processes by id: is it the same one, signal it, all that descends from it.
//!
//! A process is its id and its *birth*, the time it started: an id alone may have passed to a stranger since.
//! A zombie counts as gone, as where nobody reaps orphans (a container's first process) it stays for ever.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const POLL: Duration = Duration::from_millis(20);

/// When the process started, in words of the system; `None` once it has ended.
pub(crate) fn birth(pid: u32) -> Option<String> {
    if cfg!(target_os = "linux") {
        let stat = Stat::read(pid)?;
        (!stat.dead).then_some(stat.started)
    } else {
        let output = Command::new("ps")
            .args(["-o", "stat=,lstart=", "-p", &pid.to_string()])
            .output()
            .ok()?;
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!line.is_empty() && !line.starts_with('Z')).then(|| {
            line.split_once(' ')
                .map_or(String::new(), |it| it.1.trim().into())
        })
    }
}

/// Sends a signal to one process. A process that is gone is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _gone = kill_process(pid, signal);
    }
}

/// Sends a signal to a process group. A group that is gone is no error.
pub(crate) fn signal_group(leader: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(leader.cast_signed()) {
        let _gone = kill_process_group(pid, signal);
    }
}

/// Kills the process and all its descendants with SIGKILL, and waits until they are gone.
pub(crate) fn kill_tree(pid: u32) {
    // Stopped, it has no more children while we look for them.
    signal(pid, Signal::STOP);
    let mut family = descendants(pid);
    family.insert(0, pid);
    for &member in &family {
        signal(member, Signal::KILL);
    }
    for member in family {
        wait_gone(member, Duration::from_secs(10));
    }
}

/// Waits until the process has ended; says whether it has.
pub(crate) fn wait_gone(pid: u32, limit: Duration) -> bool {
    wait_until(limit, || birth(pid).is_none())
}

/// Asks again and again until the answer is yes or the time is over; says which.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Children, their children and so on, nearest first.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (child, parent) in parents() {
        children.entry(parent).or_default().push(child);
    }
    let mut found = Vec::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        let born = children.remove(&parent).unwrap_or_default();
        next.extend(&born);
        found.extend(born);
    }
    found
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    if cfg!(target_os = "linux") {
        let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
        ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Stat::read(pid).map(|stat| (pid, stat.parent)))
            .collect()
    } else {
        let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        text.lines()
            .filter_map(|line| line.trim().split_once(' '))
            .filter_map(|(pid, parent)| Some((pid.parse().ok()?, parent.trim().parse().ok()?)))
            .collect()
    }
}

/// What we read of `/proc/PID/stat`.
struct Stat {
    dead: bool,
    parent: u32,
    started: String,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// `pid (name) state ppid … starttime …`; the name may hold spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let [state, parent] = [fields.first()?, fields.get(1)?];
        Some(Self {
            dead: matches!(*state, "Z" | "X"),
            parent: parent.parse().ok()?,
            started: (*fields.get(19)?).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    /// A name with a parenthesis and a space does not shift the fields.
    #[test]
    fn stat_is_read_from_its_end() {
        let stat =
            Stat::parse("7 (a) b) Z 3 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0").unwrap();
        assert_eq!(
            (stat.dead, stat.parent, stat.started.as_str()),
            (true, 3, "4711")
        );
    }

    /// A child is seen, is our descendant, and after the kill is neither.
    #[test]
    fn a_killed_child_is_gone() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        assert!(birth(child.id()).is_some());
        assert!(descendants(process::id()).contains(&child.id()));
        kill_tree(child.id());
        assert_eq!(birth(child.id()), None);
        child.wait().unwrap();
    }
}
