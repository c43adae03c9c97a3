//! Known ways to make two parsers see two different requests in the same bytes, each written down from
//! the class of attack: RFC 9112, sections 11.1 and 11.2. Data only.

use super::Vector;

/// Whatever names a request `/smuggled` hides it in something else.
pub const SMUGGLING: &[Vector] = &[
    (
        "CL.TE",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "TE.CL",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "CL.TE, other case",
        b"POST /count HTTP/1.1\r\nHost: a\r\ncontent-length: 6\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "CL.TE on HTTP/1.0",
        b"POST /count HTTP/1.0\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "TE.CL on GET",
        b"GET /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "CL.TE with fields between",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        400,
    ),
    (
        "CL.CL",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "CL.CL as a list",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 6\r\n\r\nGET /x",
        400,
    ),
    (
        "CL.CL, one with space before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length : 6\r\n\r\nGET /x",
        400,
    ),
    (
        "CL.CL, one folded",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\tContent-Length: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "CL.CL, one empty",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length:\r\nContent-Length: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "TE.TE, second unknown",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE.TE, first unknown",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE.TE, second empty",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE.TE, second identity",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: space before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: tab before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: vertical tab before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\x0b: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: NUL before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: LF before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\n: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: CR before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\r: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: white space in front",
        b"POST /count HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: tab in front",
        b"POST /count HTTP/1.1\r\nHost: a\r\n\tTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: behind a bare LF",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: behind a bare CR",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: value on the next line",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: folded in the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: NUL in front of the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \0chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: vertical tab in front of the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: form feed behind the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: NUL behind the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: CR within the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chu\rnked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: no-break space",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: Kelvin sign",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\xe2\x84\xaaed\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: long s for no letter of it",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\xc5\xbf\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: double quotes",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: brackets",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: [chunked]\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: comment",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked (x)\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: semicolon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: parameter",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: comma behind",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: comma in front",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: commas alone",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,,\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: twice in a list",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: two words",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "hidden chunked: single quotes",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: identity behind",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: identity in front",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: unknown behind",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, cow\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: unknown in front",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: letter in front",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: letter behind",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: chunk",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunk\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: gzip, deflate",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, deflate\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden chunked: unknown with a parameter",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow;a=b, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    (
        "hidden length: space before the colon",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length : 6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: behind a bare LF",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: behind a bare CR",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: white space in front",
        b"POST /count HTTP/1.1\r\nHost: a\r\n Content-Length: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: value on the next line",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: NUL in the name",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length\0: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: NUL in the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: \x006\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: plus",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: +6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: hexadecimal",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 0x6\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: octal-like and letters",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 06o\r\n\r\nGET /x",
        400,
    ),
    (
        "hidden length: LF within the value",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 6\n0\r\n\r\nGET /x",
        400,
    ),
    (
        "underscore for hyphen",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "underscore in the length",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent_Length: 40\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "one letter less",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encodin: chunked\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "one letter more",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encodings: chunked\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "no hyphen",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContentLength: 40\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "framing in another field",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "nominated length",
        b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "nominated coding",
        b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        0,
    ),
    (
        "nominated Host",
        b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: host\r\nContent-Length: 3\r\n\r\nabc",
        0,
    ),
    (
        "CL.0: a request as body",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "CL.0 with GET",
        b"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "CL.0 with HEAD",
        b"HEAD /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "CL.0 with OPTIONS *",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "CL.0 to nobody",
        b"POST /nobody/is/here HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "CL.0 to a control path",
        b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "a request as chunk",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n23\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
        0,
    ),
    (
        "a request as chunk to nobody",
        b"POST /nobody/is/here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n23\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
        0,
    ),
    (
        "a request as body of an upgrade",
        b"POST /count HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "an upgrade to h2c",
        b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        0,
    ),
    (
        "CONNECT with a body",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        501,
    ),
    (
        "expectation hides a body",
        b"POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        0,
    ),
    (
        "expectation that is none",
        b"POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue;x\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        417,
    ),
    (
        "expectation with NUL",
        b"POST /count HTTP/1.1\r\nHost: a\r\nExpect: \x00100-continue\r\nContent-Length: 6\r\n\r\nGET /x",
        400,
    ),
    (
        "HTTP/1.0 keep-alive with a coding",
        b"POST /count HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "HTTP/1.0 with an unknown coding",
        b"POST /count HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        400,
    ),
    (
        "end of the head by LF",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\r\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n",
        400,
    ),
    (
        "end of the head by CR",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\r\n\rGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n",
        400,
    ),
    (
        "request line in a field by CR",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\rGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n",
        400,
    ),
    (
        "request in the target",
        b"GET /hello\rHTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "Host in the target",
        b"GET http://b\r\n/ HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "two Hosts by LF",
        b"POST /count HTTP/1.1\r\nHost: a\r\nX: y\nHost: b\r\n\r\n",
        400,
    ),
    (
        "Host folded",
        b"POST /count HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        400,
    ),
    (
        "chunk line ended by LF in an extension",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;\nabc\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk line with two ends",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4c\r\n0\r\n\r\n",
        400,
    ),
    (
        "chunk data ended by LF",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
        400,
    ),
    (
        "chunk data ended by other bytes",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXY0\r\n\r\n",
        400,
    ),
    (
        "chunk of wrapped size",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100000000000000003\r\nabc\r\n0\r\n\r\n",
        400,
    ),
    (
        "last chunk of wrapped size",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
        400,
    ),
    (
        "size cut by NUL",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\x003\r\nabc\r\n0\r\n\r\n",
        400,
    ),
    (
        "size cut by a space",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0 3\r\nabc\r\n0\r\n\r\n",
        400,
    ),
    (
        "empty size as the last",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "end of body by LF",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "request as trailer",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    (
        "length as trailer",
        b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
];
