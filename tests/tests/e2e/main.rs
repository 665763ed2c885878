//! End-to-end tests: the whole server as a process, through real peers. One binary, one module per subject.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "test code: a failure here is the test's answer"
)]

mod access;
mod aging;
mod bad_input;
mod command_line;
mod complaints;
mod delivery;
mod demo;
mod disk;
mod domain_reports;
mod elsewhere;
mod erasure;
mod exports;
mod feedback;
mod golden_lake;
mod hostile;
mod hostile_reports;
mod judging;
mod lake;
mod limits;
mod maintenance;
mod outage;
mod postfix;
mod readme;
mod reverse;
mod rollups;
mod sql;
mod start;
mod storage;
mod suppression;
mod torture;
mod tracking;
mod verifying;

use serde_json::{Value, json};

/// A small message.
fn message(to: &str) -> Value {
    json!({"from": "Ann <ann@acme.example>", "to": [to], "subject": "Hello", "text": "Good morning."})
}

/// `message`, with members replaced or added.
fn message_with(to: &str, changes: Value) -> Value {
    let mut message = message(to);
    message.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    message
}

/// The values of one field of a message's events, in order.
fn events<'a>(history: &'a Value, field: &str) -> Vec<&'a Value> {
    history["events"].as_array().unwrap().iter().map(|event| &event[field]).collect()
}
