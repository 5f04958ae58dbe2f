//! Tests of the Raft rules from outside: single rules, talks of several cores, random histories.

mod cluster;
mod followers;
mod forged;
mod quorum;
mod random;
mod renounce;
mod repair;
mod rules;
mod transcript;
mod transfer;
