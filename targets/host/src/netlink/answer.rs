//! What the kernel answers to a request: done, perhaps with a warning, or refused, and why.
//!
//! Not here: waiting for the answer ([`super::Socket`], [`super::BatchSocket`]).

use std::{fmt, io};

use super::{
    DONE, ERROR, HEADER,
    read::{Message, attribute, text, u32_at},
};

/// NLM_F_CAPPED: of the request, the answer repeats only the header.
const CAPPED: u16 = 0x100;
/// NLM_F_ACK_TLVS: attributes follow.
const ACK_TLVS: u16 = 0x200;
/// NLMSGERR_ATTR_MSG
const TEXT: u16 = 1;

/// Why the kernel did not do what a message said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kernel's error number, positive.
    pub errno: i32,
    /// What the kernel or a driver said beyond the number. Only a [`super::BatchSocket`] asks for
    /// it.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

impl std::error::Error for Refusal {}

/// Only the number is kept, so that callers can tell errors apart by it.
impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        io::Error::from_raw_os_error(refusal.errno)
    }
}

/// For those to whom a failing socket is a refusal like others.
impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal { errno: error.raw_os_error().unwrap_or(libc::EIO), text: None }
    }
}

/// What the kernel did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The body of the object's message as it is now, where [`super::flags::ECHO`] asked for it.
    pub echo: Option<Vec<u8>>,
    /// A warning, where there is one.
    pub text: Option<String>,
}

impl Message<'_> {
    /// The answer that this message is: it ends a dump, acknowledges, or refuses. None for a
    /// message that holds an object.
    pub(super) fn answer(&self) -> Option<Result<Done, Refusal>> {
        let code = u32_at(self.body, 0).map(|code| code as i32);
        match self.kind {
            DONE => Some(self.outcome(code.unwrap_or(0), None)),
            ERROR => {
                let code = code.unwrap_or(-libc::EIO);
                Some(self.outcome(code, self.text(code)))
            }
            _ => None,
        }
    }

    fn outcome(&self, code: i32, text: Option<String>) -> Result<Done, Refusal> {
        // The kernel's numbers are negative. A dump may end with a positive one, which means
        // nothing.
        match code {
            0.. => Ok(Done { echo: None, text }),
            code => Err(Refusal { errno: code.saturating_neg(), text }),
        }
    }

    /// The extended text: behind the code and the request's header, and the request's body unless
    /// it is left out, are attributes.
    fn text(&self, code: i32) -> Option<String> {
        if self.flags & ACK_TLVS == 0 {
            return None;
        }
        let repeated = match u32_at(self.body, 4)? as usize {
            _ if self.flags & CAPPED != 0 || code == 0 => HEADER,
            length => length.checked_next_multiple_of(4)?,
        };
        attribute(self.body.get(repeated.checked_add(4)?..)?, TEXT).map(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{message, put_text},
        *,
    };

    fn answer(
        flags: u16,
        code: i32,
        request: &[u8],
        text: Option<&str>,
    ) -> Option<Result<Done, Refusal>> {
        let mut body = code.to_ne_bytes().to_vec();
        let mut asked = Vec::new();
        message(&mut asked, 36, 0, 1, |to| to.extend(request));
        body.extend(if flags & CAPPED != 0 || code == 0 { &asked[..HEADER] } else { &asked });
        body.resize(body.len().next_multiple_of(4), 0);
        if let Some(text) = text {
            put_text(&mut body, TEXT, text);
        }
        Message { kind: ERROR, flags, sequence: 1, body: &body }.answer()
    }

    #[test]
    fn a_refusal_has_its_number_and_the_kernels_text() {
        let refused = |text: Option<&str>| {
            Some(Err(Refusal { errno: libc::EOPNOTSUPP, text: text.map(str::to_owned) }))
        };
        let code = -libc::EOPNOTSUPP;
        assert_eq!(answer(0, code, &[1, 2, 3], None), refused(None));
        assert_eq!(
            answer(ACK_TLVS, code, &[1, 2, 3], Some("no chains")),
            refused(Some("no chains"))
        );
        assert_eq!(
            answer(ACK_TLVS | CAPPED, code, &[1, 2, 3], Some("no chains")),
            refused(Some("no chains"))
        );
        let warned = Done { echo: None, text: Some("only in software".into()) };
        assert_eq!(answer(ACK_TLVS, 0, &[1], Some("only in software")), Some(Ok(warned)));
        let refusal = Refusal { errno: libc::EOPNOTSUPP, text: Some("no chains".into()) };
        assert_eq!(refusal.to_string(), "Operation not supported (os error 95): no chains");
    }

    #[test]
    fn an_answer_without_a_code_is_an_error_only_where_it_acknowledges() {
        let of = |kind| Message { kind, flags: 0, sequence: 1, body: &[] }.answer();
        assert_eq!(of(DONE), Some(Ok(Done::default())));
        assert_eq!(of(ERROR), Some(Err(Refusal { errno: libc::EIO, text: None })));
        assert_eq!(of(16), None);
    }
}
