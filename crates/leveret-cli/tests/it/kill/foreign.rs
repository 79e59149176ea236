//! A client of somebody else, which sends properties as bytes. A client library would not send most of them.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use lapin::uri::AMQPUri;

const FRAME_BYTES_MAX: u32 = 128 * 1024;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;

/// Class and method.
type Method = [u8; 4];
const START_OK: Method = [0, 10, 0, 11];
const TUNE: Method = [0, 10, 0, 30];
const TUNE_OK: Method = [0, 10, 0, 31];
const OPEN: Method = [0, 10, 0, 40];
const OPEN_OK: Method = [0, 10, 0, 41];
const CHANNEL_OPEN: Method = [0, 20, 0, 10];
const CHANNEL_OPEN_OK: Method = [0, 20, 0, 11];
const PUBLISH: Method = [0, 60, 0, 40];
const ACK: Method = [0, 60, 0, 80];
const CONFIRM_SELECT: Method = [0, 85, 0, 10];
const CONFIRM_SELECT_OK: Method = [0, 85, 0, 11];

/// A connection with a channel that confirms. Blocks.
#[derive(Debug)]
pub(crate) struct Foreign(TcpStream);

impl Foreign {
    pub(crate) fn connect(url: &str) -> Foreign {
        let uri: AMQPUri = url.parse().expect("a URL");
        let (authority, user) = (&uri.authority, &uri.authority.userinfo);
        let socket = TcpStream::connect((&*authority.host, authority.port)).expect("connects");
        let mut client = Foreign(socket);
        client.send(b"AMQP\0\0\x09\x01");
        let login = format!("\0{}\0{}", user.username, user.password);
        let locale = short(b"en_US");
        client.method(
            0,
            START_OK,
            &[
                &table(&[]),
                &short(b"PLAIN"),
                &long(login.as_bytes()),
                &locale,
            ],
        );
        client.expect(TUNE);
        client.method(
            0,
            TUNE_OK,
            &[&[0, 1], &FRAME_BYTES_MAX.to_be_bytes(), &[0, 0]],
        );
        client.method(0, OPEN, &[&short(uri.vhost.as_bytes()), &[0, 0]]);
        client.expect(OPEN_OK);
        client.method(1, CHANNEL_OPEN, &[&[0]]);
        client.expect(CHANNEL_OPEN_OK);
        client.method(1, CONFIRM_SELECT, &[&[0]]);
        client.expect(CONFIRM_SELECT_OK);
        client
    }

    /// Returns when the broker has it. `properties`: flags and values.
    pub(crate) fn publish(&mut self, exchange: &str, key: &[u8], properties: &[u8], body: &[u8]) {
        self.method(
            1,
            PUBLISH,
            &[&[0, 0], &short(exchange.as_bytes()), &short(key), &[0]],
        );
        let bytes = (body.len() as u64).to_be_bytes();
        self.frame(
            CONTENT_HEADER,
            1,
            &[&[0, 60, 0, 0], &bytes[..], properties].concat(),
        );
        self.frame(BODY, 1, body);
        self.expect(ACK);
    }

    fn method(&mut self, channel: u16, method: Method, arguments: &[&[u8]]) {
        let payload = [&method, &arguments.concat()[..]].concat();
        self.frame(METHOD, channel, &payload);
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let head = [&[kind][..], &channel.to_be_bytes()].concat();
        self.send(&[&head, &long(payload)[..], &[END]].concat());
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sends");
    }

    /// Reads up to this method.
    fn expect(&mut self, method: Method) {
        loop {
            let mut head = [0; 7];
            self.0.read_exact(&mut head).expect("the broker answers");
            let [.., a, b, c, d] = head;
            let mut payload = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + 1];
            self.0.read_exact(&mut payload).expect("a whole frame");
            if payload.starts_with(&method) {
                return;
            }
        }
    }
}

/// Properties that have one alone, at this place of the list of properties.
pub(crate) fn only(place: u32, value: &[u8]) -> Vec<u8> {
    [&(0x8000_u16 >> place).to_be_bytes()[..], value].concat()
}

/// Headers, by their names and their values with type.
pub(crate) fn table(headers: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let header = |(name, value): &(&[u8], Vec<u8>)| [short(name), value.clone()].concat();
    long(&headers.iter().map(header).collect::<Vec<_>>().concat())
}

pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("is short");
    [&[length], text].concat()
}

pub(crate) fn long(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("is not too long");
    [&length.to_be_bytes(), text].concat()
}
