//! The options that bound what clients may ask for, and how slow they may be.

use clap::Args;

use crate::cli::Failure;
use crate::hub::ClientLimits;
use crate::limits::{
    BODY_GRACE_MS, BODY_RATE, DEFAULT_MAX_BODY, HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS, MAX_BODY_RATE,
    WRITE_TIMEOUT_MS,
};

/// Longest time an option takes.
const DAY: f64 = 86_400.0;

#[derive(Debug, Args)]
pub struct ClientArgs {
    /// Longest request body, for routes that do not say otherwise: bytes, or a number with K, M or G;
    /// 0 for any length. Longer ones are answered with 413.
    #[arg(long, default_value_t = Bytes(DEFAULT_MAX_BODY), value_name = "BYTES")]
    max_body: Bytes,

    /// Most connections at one time [default: what the limit on open files leaves]. Further ones are
    /// answered with 503.
    #[arg(long, value_name = "COUNT")]
    pub max_connections: Option<usize>,

    /// Seconds for a whole request head, from its first byte.
    #[arg(long, default_value_t = seconds(HEAD_TIMEOUT_MS), value_name = "SECONDS", hide_short_help = true)]
    head_timeout: f64,

    /// Seconds a connection may rest between requests.
    #[arg(long, default_value_t = seconds(IDLE_TIMEOUT_MS), value_name = "SECONDS", hide_short_help = true)]
    idle_timeout: f64,

    /// Bytes of a request body that must arrive in a second, on the whole; 0 for any.
    #[arg(long, default_value_t = BODY_RATE, value_name = "BYTES", hide_short_help = true,
          value_parser = clap::value_parser!(u64).range(0..=MAX_BODY_RATE))]
    body_rate: u64,

    /// Seconds by which a request body may be behind that, and so the longest pause in one.
    #[arg(long, default_value_t = seconds(BODY_GRACE_MS), value_name = "SECONDS", hide_short_help = true)]
    body_grace: f64,

    /// Seconds a client that is sent something may take none of it.
    #[arg(long, default_value_t = seconds(WRITE_TIMEOUT_MS), value_name = "SECONDS", hide_short_help = true)]
    write_timeout: f64,
}

impl ClientArgs {
    /// The limits these options ask for.
    pub fn limits(&self) -> Result<ClientLimits, Failure> {
        if self.max_connections == Some(0) {
            return Err(Failure::usage("--max-connections 0: give at least 1"));
        }
        Ok(ClientLimits {
            max_body: self.max_body.0,
            head_timeout_ms: milliseconds("--head-timeout", self.head_timeout)?,
            idle_timeout_ms: milliseconds("--idle-timeout", self.idle_timeout)?,
            body_grace_ms: milliseconds("--body-grace", self.body_grace)?,
            body_rate: self.body_rate,
            write_timeout_ms: milliseconds("--write-timeout", self.write_timeout)?,
        })
    }
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

fn milliseconds(option: &str, seconds: f64) -> Result<u64, Failure> {
    if (0.001..=DAY).contains(&seconds) {
        return Ok((seconds * 1000.0) as u64);
    }
    let message = format!("{option} {seconds}: give seconds from 0.001 to {DAY}");
    Err(Failure::usage(message))
}

/// A number of bytes as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes(u64);

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let number = digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse::<u64>().ok())
            .flatten();
        number
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Bytes)
            .ok_or_else(|| {
                "give bytes, or a number with K, M or G behind it (1024, 1024², 1024³)".into()
            })
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
            if self.0 > 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("1", 1, "1"),
            ("1000", 1000, "1000"),
            ("4k", 4096, "4K"),
            ("64M", 64 << 20, "64M"),
            ("1024M", 1 << 30, "1G"),
            ("3G", 3 << 30, "3G"),
        ] {
            let parsed: Bytes = text.parse().unwrap();
            assert_eq!(parsed, Bytes(bytes), "{text}");
            assert_eq!(parsed.to_string(), shown);
        }
        for text in [
            "",
            "K",
            "-1",
            "+1",
            "1.5M",
            "1MB",
            "1 M",
            "M1",
            "17179869184G",
            "é",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
