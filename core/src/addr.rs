//! Addresses (stub).
