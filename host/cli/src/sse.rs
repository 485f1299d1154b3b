//! Server-sent events, the part of them that the host speaks: `event`, `data`, `id` and comment lines.
//! Format: WHATWG HTML, section 9.2 "Server-sent events".
//!
//! Pure; must never hold more than one event.

/// LIMIT: longest line and longest event, in bytes; a longer one ends the stream.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its kind, `message` when it does not say.
    pub kind: String,
    /// Its data, lines joined by line ends.
    pub data: String,
}

/// An event longer than this side takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub struct TooLong;

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    kind: String,
    data: String,
    has_data: Option<()>,
    after_return: Option<()>,
}

impl Events {
    /// Takes the next bytes and answers with the events they complete.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for byte in bytes {
            let after_return = self.after_return.take().is_some();
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    self.after_return = (*byte == b'\r').then_some(());
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_line(&String::from_utf8_lossy(&line)));
                }
                _ => self.line.push(*byte),
            }
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let data = std::mem::take(&mut self.data);
            self.has_data.take()?;
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return Some(Event { kind, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if self.has_data.replace(()).is_some() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments (an empty field) keep the connection alive; ids are inside the data.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut events = Events::default();
        pieces.iter().flat_map(|piece| events.take(piece).unwrap()).map(|e| (e.kind, e.data)).collect()
    }

    #[test]
    fn events_are_cut_at_empty_lines_however_the_bytes_arrive() {
        let text = b": hello\n\ndata: {\"seq\":1}\n\nevent: dropped\r\ndata:{\"count\":2}\r\n\r\ndata: a\ndata: b\n\n";
        let expected: Vec<(String, String)> =
            [("message", "{\"seq\":1}"), ("dropped", "{\"count\":2}"), ("message", "a\nb")]
                .map(|(k, d)| (k.to_owned(), d.to_owned()))
                .to_vec();
        assert_eq!(all(&[text]), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(all(&bytes), expected);
    }

    #[test]
    fn an_unfinished_event_is_not_delivered() {
        assert_eq!(all(&[b"data: x\n"]), vec![]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        assert_eq!(events.take(&vec![b'x'; EVENT_BYTES_MAX + 1]), Err(TooLong));
    }
}
