//! Where a request ends, by slotway and by hyper: the fuzz corpora of request heads and of chunked
//! bodies, and the cases that smuggling lives on. Nothing that slotway accepts may be read otherwise.
// The parser is part of the hub.
#![cfg(feature = "gateway")]

#[path = "support/hyper_peer.rs"]
mod hyper_peer;

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = fs::read_dir(&folder).expect("a corpus");
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} has lost its seeds", folder.display());
    let mut accepted = 0;
    for file in files {
        println!("{}", file.display());
        accepted += usize::from(check(&fs::read(&file).unwrap()));
    }
    assert!(accepted >= 5, "hardly anything was compared");
}

#[test]
fn the_corpus_of_heads_ends_where_hyper_says() {
    replay("http_request", hyper_peer::check_request);
}

#[test]
fn the_corpus_of_chunked_bodies_ends_where_hyper_says() {
    replay("chunked", hyper_peer::check_chunked);
}

#[test]
fn what_smuggling_lives_on_is_read_alike() {
    let fields = [
        "",
        "Content-Length: 5\r\n",
        "Content-Length: 05\r\n",
        "content-length:5\r\n",
        "Content-Length: 5 \t\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 0x5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "Transfer-Encoding:\tchunked\t\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: x\r\n chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nConnection: close\r\n",
        "Content-Length: 5\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
    ];
    let bodies = [
        "",
        "abcde",
        "5\r\nabcde\r\n0\r\n\r\n",
        "5;a=b\r\nabcde\r\n0\r\nX: y\r\n\r\n",
        "05 \r\nabcde\r\n0\r\n\r\n",
        "5\nabcde\n0\n\n",
        "0\r\n\r\n",
        "ffffffffffffffff1\r\n",
    ];
    let mut accepted = 0;
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        for field in fields {
            for body in bodies {
                let wire = format!("POST /a {version}\r\nHost: h\r\n{field}\r\n{body}");
                println!("{wire:?}");
                let input = [b"...", wire.as_bytes()].concat();
                accepted += usize::from(hyper_peer::check_request(&input));
            }
        }
    }
    assert!(accepted > 100, "hardly anything was compared: {accepted}");
}
