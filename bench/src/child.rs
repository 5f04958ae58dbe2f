//! Child processes of this program; requests and replies are lines of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{self, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replies buffered before the reader blocks; a child answers requests one by one.
const LINES_MAX: usize = 64;

/// A child process; dropping it kills it and waits for its end.
pub(crate) struct Child {
    name: String,
    process: process::Child,
    /// `None` once it is killed: closing it ends the child's loop.
    requests: Option<ChildStdin>,
    replies: Receiver<String>,
}

impl Child {
    /// Starts this program once more, with a hidden subcommand.
    ///
    /// # Errors
    /// When the program's file is not found or can't be started.
    pub(crate) fn spawn(subcommand: &str, name: String) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        Self::spawn_program(process::Command::new(program).arg(subcommand), name)
    }

    fn spawn_program(command: &mut process::Command, name: String) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let requests = process.stdin.take();
        let replies = process
            .stdout
            .take()
            .expect("standard output was asked to be a pipe");
        let (sender, receiver) = bounded(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(replies).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            name,
            process,
            requests,
            replies: receiver,
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the child is gone.
    pub(crate) fn send(&mut self, request: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let gone = || format!("{} is gone", self.name);
        let requests = self.requests.as_mut().with_context(gone)?;
        requests.write_all(line.as_bytes()).with_context(gone)
    }

    /// Waits for a reply.
    ///
    /// # Errors
    /// When none comes within `patience`, the child ends, or it reports an error.
    pub(crate) fn receive<R: DeserializeOwned>(&mut self, patience: Duration) -> Result<R> {
        let line = match self.replies.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "{} did not answer within {} s",
                    self.name,
                    patience.as_secs()
                )
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.wait()?;
                bail!("{} ended unexpectedly ({status})", self.name)
            }
        };
        let reply: Result<R, String> = serde_json::from_str(&line)
            .with_context(|| format!("{} answered {line:?}", self.name))?;
        reply.map_err(|error| anyhow!("{}: {error}", self.name))
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// As for [`Child::send`] and [`Child::receive`].
    pub(crate) fn ask<R: DeserializeOwned>(
        &mut self,
        request: &impl Serialize,
        patience: Duration,
    ) -> Result<R> {
        self.send(request)?;
        self.receive(patience)
    }
}

impl Child {
    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        drop(self.requests.take());
        // Its pending replies don't matter.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The child's side: serves each request until the parent closes the pipe or is gone.
///
/// # Errors
/// When standard input or output fails; an error of `serve` goes to the parent instead.
pub(crate) fn serve_requests<Q: DeserializeOwned, R: Serialize>(
    mut serve: impl FnMut(Q) -> Result<R>,
) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let outcome = serde_json::from_str(&line?)
            .map_err(Into::into)
            .and_then(&mut serve);
        send_reply(&outcome.map_err(|error| format!("{error:#}")))?;
    }
    Ok(())
}

fn send_reply<R: Serialize>(outcome: &Result<R, String>) -> Result<()> {
    let mut line = serde_json::to_string(outcome)?;
    line.push('\n');
    let mut replies = std::io::stdout().lock();
    replies.write_all(line.as_bytes())?;
    replies.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_comes_back_and_the_end_of_a_child_is_noticed() {
        let mut cat =
            Child::spawn_program(&mut process::Command::new("cat"), "cat".into()).unwrap();
        let request: Result<u32, String> = Ok(7);
        let reply: u32 = cat.ask(&request, Duration::from_secs(60)).unwrap();
        assert_eq!(reply, 7);
        let request: Result<u32, String> = Err("no disk".into());
        let error = cat
            .ask::<u32>(&request, Duration::from_secs(60))
            .unwrap_err();
        assert_eq!(error.to_string(), "cat: no disk");
        drop(cat.requests.take());
        let error = cat.receive::<u32>(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("ended unexpectedly"), "{error}");
    }
}
