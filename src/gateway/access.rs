//! Who may use the control paths (`/internal/*`): peers on this machine and holders of the secret,
//! never a web page of another origin. Pure decisions on a parsed head.

use std::net::{IpAddr, SocketAddr};

use crate::gateway::problem::Problem;
use crate::message::{Method, RequestHead, Span};

/// Whether a path is for those who control the hub.
pub fn is_control_path(path: &[u8]) -> bool {
    path.starts_with(b"/internal")
}

/// Whether a control request may pass.
///
/// A page in a browser on this machine is a loopback peer too, so being one is not enough:
///
/// * a request that says it comes from another origin (`Origin`, `Sec-Fetch-Site`) is refused;
/// * without the secret, a request that says it was forwarded is refused: a proxy on this machine is a
///   loopback peer for everybody it serves;
/// * without the secret, a request that could be a page's must have a `Host` that names this machine
///   by address or as `localhost`. A page whose own name was made to resolve to 127.0.0.1 (DNS
///   rebinding) is of the same origin as far as its browser knows, and only that name gives it away.
///   Browsers say the origin of everything but GET and HEAD (Fetch standard, section 3.2), so
///   whatever else comes without one is no page's, and may call the hub as it likes.
///
/// # Errors
/// 403, with the reason.
pub fn check_control(
    head: &RequestHead,
    raw: &[u8],
    peer: Option<SocketAddr>,
    secret: Option<&str>,
) -> Result<(), Problem> {
    let text = |span: Option<Span>| span.and_then(|s| s.of(raw));
    let host = text(head.host).unwrap_or_default();
    if head.cross_site || text(head.origin).is_some_and(|origin| !is_same_origin(origin, host)) {
        return Err(Problem::forbidden(
            "control paths are closed to web pages of other origins",
            "Call the control API from a program, not from a page.",
        ));
    }
    if let (Some(expected), Some(given)) = (secret, text(head.secret)) {
        return if is_equal(expected.as_bytes(), given) {
            Ok(())
        } else {
            Err(Problem::forbidden(
                "the secret in X-Hub-Secret is wrong",
                "Send the hub's HUB_SECRET.",
            ))
        };
    }
    if !peer.is_none_or(|peer| peer.ip().to_canonical().is_loopback()) {
        return Err(Problem::forbidden(
            "control paths are open to this machine and to holders of the hub's secret",
            "Set HUB_SECRET for the hub and send it in the field X-Hub-Secret.",
        ));
    }
    if was_forwarded(raw) {
        return Err(Problem::forbidden(
            "without the hub's secret, a control request must not have come through a proxy",
            "Call the hub itself, or set HUB_SECRET for it and send it in the field X-Hub-Secret. Keep /internal from what the proxy passes on.",
        ));
    }
    let is_read = matches!(head.method, Method::Get | Method::Head);
    if (is_read || head.origin.is_some()) && !names_this_machine(host) {
        return Err(Problem::forbidden(
            "without the hub's secret, a control request must address the hub by IP address or as localhost",
            "Use 127.0.0.1 or localhost in the URL, or send HUB_SECRET in the field X-Hub-Secret.",
        ));
    }
    Ok(())
}

/// Whether a proxy says of itself that it has passed the request on.
fn was_forwarded(raw: &[u8]) -> bool {
    const SAY_SO: [&[u8]; 5] = [
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-real-ip",
    ];
    let names = raw
        .split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(|byte| *byte == b':').next());
    names
        .into_iter()
        .any(|name| SAY_SO.iter().any(|said| name.eq_ignore_ascii_case(said)))
}

/// Whether a page of this origin is the hub's own: scheme, host and port are the same.
fn is_same_origin(origin: &[u8], host: &[u8]) -> bool {
    let authority = origin
        .strip_prefix(b"http://")
        .or(origin.strip_prefix(b"https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

fn names_this_machine(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || address.is_some_and(|a| a.parse::<IpAddr>().is_ok())
}

/// Compares without telling by its duration where the first difference is. The length is no secret.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a
        .iter()
        .zip(b)
        .fold(0, |d, (x, y)| std::hint::black_box(d | (x ^ y)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_head;

    const SECRET: &str = "0123456789abcdef";

    fn check(fields: &str, peer: &str) -> Result<(), u16> {
        check_method("GET", fields, peer)
    }

    fn check_method(method: &str, fields: &str, peer: &str) -> Result<(), u16> {
        let raw = format!("{method} /internal/slots HTTP/1.1\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        parse_head(raw.as_bytes(), &mut head).unwrap();
        let peer = (!peer.is_empty()).then(|| peer.parse().unwrap());
        check_control(&head, raw.as_bytes(), peer, Some(SECRET)).map_err(|p| p.status)
    }

    #[test]
    fn what_came_through_a_proxy_needs_the_secret() {
        for field in [
            "X-Forwarded-For: 203.0.113.9",
            "forwarded: for=203.0.113.9",
            "Via: 1.1 proxy",
            "X-Real-IP: 203.0.113.9",
            "x-forwarded-host: shop.example",
        ] {
            for peer in ["127.0.0.1:5", ""] {
                let fields = format!("Host: 127.0.0.1\r\n{field}\r\n");
                assert_eq!(check(&fields, peer), Err(403), "{field}");
                assert_eq!(check_method("POST", &fields, peer), Err(403), "{field}");
                let with_secret = format!("{fields}X-Hub-Secret: {SECRET}\r\n");
                assert_eq!(check(&with_secret, peer), Ok(()), "{field}");
            }
        }
        let other = "Host: 127.0.0.1\r\nX-Forwarded: a\r\nVia-Appia: b\r\nNote: via: c\r\n";
        assert_eq!(check(other, "127.0.0.1:5"), Ok(()));
    }

    #[test]
    fn this_machine_and_holders_of_the_secret_pass() {
        for host in [
            "127.0.0.1:3200",
            "localhost:3200",
            "localhost",
            "LOCALHOST",
            "[::1]:3200",
            "[::1]",
        ] {
            assert_eq!(
                check(&format!("Host: {host}\r\n"), "127.0.0.1:5"),
                Ok(()),
                "{host}"
            );
        }
        assert_eq!(check("Host: localhost\r\n", ""), Ok(()), "a Unix socket");
        assert_eq!(check("Host: localhost\r\n", "[::ffff:127.0.0.1]:5"), Ok(()));
        let secret = format!("Host: hub.example\r\nX-Hub-Secret: {SECRET}\r\n");
        assert_eq!(check(&secret, "192.0.2.1:5"), Ok(()));
        assert_eq!(check(&secret, "127.0.0.1:5"), Ok(()));
    }

    #[test]
    fn everybody_else_does_not() {
        assert_eq!(check("Host: 192.0.2.9\r\n", "192.0.2.1:5"), Err(403));
        for wrong in [
            "0123456789abcdeX",
            "0123456789abcde",
            "0123456789abcdef0",
            "x",
        ] {
            let fields = format!("Host: localhost\r\nX-Hub-Secret: {wrong}\r\n");
            assert_eq!(check(&fields, "127.0.0.1:5"), Err(403), "{wrong}");
        }
        assert_eq!(
            check("Host: evil.example:3200\r\n", "127.0.0.1:5"),
            Err(403),
            "rebinding"
        );
        let rebound = "Host: evil.example:3200\r\nOrigin: http://evil.example:3200\r\n";
        assert_eq!(check_method("POST", rebound, "127.0.0.1:5"), Err(403));
    }

    #[test]
    fn a_program_may_call_the_hub_as_it_likes() {
        assert_eq!(check_method("POST", "Host: hub\r\n", "127.0.0.1:5"), Ok(()));
        assert_eq!(
            check_method("POST", "Host: hub\r\n", "192.0.2.1:5"),
            Err(403)
        );
    }

    #[test]
    fn web_pages_of_other_origins_do_not_even_with_the_secret() {
        for fields in [
            "Origin: http://evil.example\r\n",
            "Origin: null\r\n",
            "Origin: http://localhost:8080\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
            "Sec-Fetch-Site: same-site\r\n",
        ] {
            let fields = format!("Host: localhost:3200\r\nX-Hub-Secret: {SECRET}\r\n{fields}");
            assert_eq!(check(&fields, "127.0.0.1:5"), Err(403), "{fields}");
        }
        let own = "Host: localhost:3200\r\nOrigin: http://localhost:3200\r\nSec-Fetch-Site: same-origin\r\n";
        assert_eq!(check(own, "127.0.0.1:5"), Ok(()));
    }
}
