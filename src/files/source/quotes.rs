//! The check of the quotes in a CSV record.

use memchr::{memchr, memchr2};

use crate::files::{BadRecord, CsvFormat};

/// Follows the quotes of one record. The parser silently accepts quotes anywhere.
///
/// A quote opens a field as its first character. It ends the field where a delimiter, the end of the line or the
/// end of the file follows. Inside it is doubled, or has the escape character before it.
#[derive(Clone, Debug)]
pub(crate) struct Quotes {
    /// The quote; `None` if quotes are ordinary characters.
    quote: Option<u8>,
    delimiter: u8,
    escape: Option<u8>,
    place: Place,
    stray: bool,
}

/// A place between two bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    FieldStart,
    Unquoted,
    Quoted,
    /// After the escape character.
    Escaped,
    /// After a quote in a quoted field, which ends there unless another quote follows.
    AfterQuote,
}

impl Quotes {
    pub fn of(format: &CsvFormat) -> Self {
        // The format is validated: all of them are ASCII.
        let byte = |c: char| c as u8;
        Self {
            quote: format.quote.filter(|_| !format.lenient_quotes).map(byte),
            delimiter: byte(format.delimiter),
            escape: format.escape.map(byte),
            place: Place::FieldStart,
            stray: false,
        }
    }

    /// Begins a record.
    pub fn begin(&mut self) {
        self.place = Place::FieldStart;
        self.stray = false;
    }

    /// Follows bytes of the record, which may end with the line end.
    pub fn follow(&mut self, bytes: &[u8]) {
        let Some(quote) = self.quote else { return };
        let mut rest = bytes;
        while let Some((&first, tail)) = rest.split_first() {
            rest = match self.place {
                Place::FieldStart => {
                    self.place = match first {
                        first if first == quote => Place::Quoted,
                        first if first == self.delimiter => Place::FieldStart,
                        _ => Place::Unquoted,
                    };
                    tail
                }
                Place::Unquoted => {
                    let Some(quote_at) = memchr(quote, rest) else {
                        // Most records have no quotes.
                        if rest.last() == Some(&self.delimiter) {
                            self.place = Place::FieldStart;
                        }
                        return;
                    };
                    match rest[..quote_at].last() == Some(&self.delimiter) {
                        true => self.place = Place::Quoted,
                        false => self.stray = true,
                    }
                    &rest[quote_at + 1..]
                }
                Place::Quoted => {
                    let found = match self.escape {
                        Some(escape) => memchr2(quote, escape, rest),
                        None => memchr(quote, rest),
                    };
                    let Some(at) = found else { return };
                    self.place = match rest[at] == quote {
                        true => Place::AfterQuote,
                        false => Place::Escaped,
                    };
                    &rest[at + 1..]
                }
                Place::Escaped => {
                    self.place = Place::Quoted;
                    tail
                }
                Place::AfterQuote => {
                    self.place = match first {
                        first if first == quote && self.escape.is_none() => Place::Quoted,
                        first if first == self.delimiter => Place::FieldStart,
                        b'\r' | b'\n' => Place::AfterQuote,
                        _ => {
                            self.stray = true;
                            Place::Unquoted
                        }
                    };
                    tail
                }
            };
        }
    }

    /// Checks the finished record. A quote that is still open is open to the end of the file.
    pub fn check(&self) -> Result<(), BadRecord> {
        if matches!(self.place, Place::Quoted | Place::Escaped) {
            return Err(BadRecord::new(
                "UnclosedQuote",
                "a quote is never closed, so everything from here to the end of the file is one lost record",
            ));
        }
        if self.stray {
            return Err(BadRecord::new(
                "StrayQuote",
                "a quote stands inside of a field that does not begin with one, or text follows a closing quote; \
                 a field that contains quotes must be quoted, with its own quotes doubled",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(record: &[u8], format: &CsvFormat) -> Option<&'static str> {
        let mut whole = Quotes::of(format);
        whole.begin();
        whole.follow(record);
        let whole = whole.check().err().map(|bad| bad.error_type);
        // In any pieces.
        for cut in 0..=record.len() {
            let mut pieces = Quotes::of(format);
            pieces.follow(&record[..cut]);
            pieces.follow(&record[cut..]);
            assert_eq!(pieces.check().err().map(|bad| bad.error_type), whole);
        }
        whole
    }

    #[test]
    fn quotes_around_fields_are_fine_and_others_are_not() {
        let plain = CsvFormat::default();
        let escaped = CsvFormat {
            escape: Some('\\'),
            ..CsvFormat::default()
        };
        let lenient = CsvFormat {
            lenient_quotes: true,
            ..CsvFormat::default()
        };
        for good in [
            "1,a\n",
            "\"a\",\"\",b\r\n",
            "\"a\"\"b\",\"\"\"\"\n",
            "\"a\nb,c\"\r",
            "\"a\"",
            "",
            "é,\"é\"\n",
        ] {
            assert_eq!(found(good.as_bytes(), &plain), None, "{good:?}");
        }
        for (bad, error_type) in [
            ("2,\"b\n3,c\n", "UnclosedQuote"),
            ("\"", "UnclosedQuote"),
            ("\"a\"\"", "UnclosedQuote"),
            ("a\"b,c\n", "StrayQuote"),
            ("a,b\"\n", "StrayQuote"),
            (" \"a\",b\n", "StrayQuote"),
            ("\"a\"b\n", "StrayQuote"),
            ("\"a\" ,b\n", "StrayQuote"),
            ("\"a\"b\"\n", "StrayQuote"),
        ] {
            assert_eq!(found(bad.as_bytes(), &plain), Some(error_type), "{bad:?}");
            assert_eq!(found(bad.as_bytes(), &lenient), None, "{bad:?}");
        }
        assert_eq!(found(br#""a\"b","\\""#, &escaped), None);
        assert_eq!(found(br#""a\""#, &escaped), Some("UnclosedQuote"));
        assert_eq!(found(br#""a""b""#, &escaped), Some("StrayQuote"));
    }
}
