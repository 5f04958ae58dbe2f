//! Processes of this program that it starts itself, told what to do by lines of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{self, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Lines that may wait to be read; a child answers orders one by one.
const LINES_MAX: usize = 64;

/// A child process; dropping it ends it.
pub(crate) struct Child {
    name: String,
    process: process::Child,
    /// Closed to ask for the end.
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Child {
    /// Starts this program once more with a hidden subcommand.
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
        let orders = process.stdin.take();
        let answers = process
            .stdout
            .take()
            .expect("standard output was asked to be a pipe");
        let (sender, receiver) = bounded(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            name,
            process,
            orders,
            answers: receiver,
        })
    }

    /// Sends an order.
    pub(crate) fn send(&mut self, order: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        let orders = self.orders.as_mut().expect("open until this is dropped");
        orders
            .write_all(line.as_bytes())
            .with_context(|| format!("{} is gone", self.name))
    }

    /// Waits for an answer.
    pub(crate) fn receive<A: DeserializeOwned>(&mut self, patience: Duration) -> Result<A> {
        let line = match self.answers.recv_timeout(patience) {
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
        let answer: Result<A, String> = serde_json::from_str(&line)
            .with_context(|| format!("{} answered {line:?}", self.name))?;
        answer.map_err(|error| anyhow!("{}: {error}", self.name))
    }

    /// Sends an order and waits for its answer.
    pub(crate) fn ask<A: DeserializeOwned>(
        &mut self,
        order: &impl Serialize,
        patience: Duration,
    ) -> Result<A> {
        self.send(order)?;
        self.receive(patience)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.orders.take());
        // Nothing it still has to say matters, and its data is removed next.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The child's side: answers each order until the parent closes the pipe or is gone.
pub(crate) fn answer_orders<O: DeserializeOwned, A: Serialize>(
    mut answer: impl FnMut(O) -> Result<A>,
) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let outcome = serde_json::from_str(&line?)
            .map_err(Into::into)
            .and_then(&mut answer);
        tell(&outcome.map_err(|error| format!("{error:#}")))?;
    }
    Ok(())
}

/// Says something to the parent out of turn; it expects it.
pub(crate) fn tell<A: Serialize>(outcome: &Result<A, String>) -> Result<()> {
    let mut line = serde_json::to_string(outcome)?;
    line.push('\n');
    let mut answers = std::io::stdout().lock();
    answers.write_all(line.as_bytes())?;
    answers.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_and_the_end_of_a_child_is_noticed() {
        let mut cat =
            Child::spawn_program(&mut process::Command::new("cat"), "cat".into()).unwrap();
        let order: Result<u32, String> = Ok(7);
        let answer: u32 = cat.ask(&order, Duration::from_secs(60)).unwrap();
        assert_eq!(answer, 7);
        let order: Result<u32, String> = Err("no disk".into());
        let error = cat.ask::<u32>(&order, Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.to_string(), "cat: no disk");
        drop(cat.orders.take());
        let error = cat.receive::<u32>(Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("ended unexpectedly"), "{error}");
    }
}
