//! Values as words of shared memory, and a hash of words that never changes.
//!
//! An encoding is written down here once and for all, because it lives in objects: it does not follow the
//! memory layout of a type, nor std's `Hash`. It has two laws:
//!
//! 1. **Canonical.** Equal values have equal words, unequal values unequal ones.
//! 2. **Prefix-free.** The words of one value of a type are never the beginning of another's, so that values
//!    can follow each other without separators.
//!
//! | type | words |
//! |---|---|
//! | `()` | none |
//! | `bool`, `u8` .. `u32`, `i8` .. `i32`, `char` | 1 |
//! | `u64`, `i64` | 2: low, high |
//! | `f32`, `f64` | as the `u32`, `u64` with the same bits (so 0.0 and -0.0 differ as keys) |
//! | `String`, `str` | length in bytes; the bytes, 4 to a word from the lowest byte up, the last word padded with zeros |
//! | `Option<T>` | 0; or 1 and the value |
//! | `Vec<T>`, `[T]` | number of elements; the elements |
//! | tuples up to 4 | the fields |
//! | [`Cbor<T>`] | length in bytes; the CBOR bytes, as for strings |
//!
//! # Where everything of Netshm_data is
//!
//! For those who come from OCamlnet.
//!
//! | there | here |
//! |---|---|
//! | `data_manager` | [`Encode`] and [`Decode`] of the type |
//! | `int32_manager`, `int64_manager`, `string_manager`, `pair_manager`, `option_manager`, `int32_array_manager` | `i32`, `i64`, `String`, tuples, `Option<T>`, `Vec<i32>`; the words are others |
//! | `int_manager`, `nativeint_manager` | left out, because the size differs between machines: `i64` |
//! | `left_pair_manager` | left out, because a map compares the words of keys without decoding |
//! | any other type | [`Cbor`] |
//!
//! This module does not know tables. `usize` has no encoding, because its size differs between machines.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes itself as words. The laws are on the [module page](self).
pub trait Encode {
    /// Appends the words of the value.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] for 2^32 bytes or elements and more; [`CodecError::Unserializable`] where serde
    /// says so.
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError>;
}

/// Reads itself from words.
pub trait Decode: Sized {
    /// Takes the words of one value from the front.
    ///
    /// # Errors
    /// [`CodecError`] if the words are not those of a value. Nothing is allocated beyond the size of the words.
    fn decode(words: &mut Words<'_>) -> Result<Self, CodecError>;
}

/// Something that can be a key or a value in shared memory.
#[doc(alias("Netshm_data", "data_manager"))]
pub trait Value: Encode + Decode {}

impl<T: Encode + Decode> Value for T {}

/// Words that wait to be decoded.
#[derive(Clone, Debug)]
pub struct Words<'a>(&'a [u32]);

impl<'a> Words<'a> {
    /// Words to decode from.
    pub fn new(words: &'a [u32]) -> Words<'a> {
        Words(words)
    }

    /// Takes one word.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if none is left.
    #[inline]
    pub fn word(&mut self) -> Result<u32, CodecError> {
        Ok(self.take(1)?[0])
    }

    /// Takes `count` words.
    ///
    /// # Errors
    /// [`CodecError::TooShort`] if fewer are left.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u32], CodecError> {
        if count > self.0.len() {
            return Err(CodecError::TooShort);
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    /// Words left.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }
}

/// Decodes a value from exactly these words.
///
/// # Errors
/// [`CodecError`]; [`CodecError::TooLongInput`] if words are left over.
pub fn decode_all<T: Decode>(words: &[u32]) -> Result<T, CodecError> {
    let mut words = Words::new(words);
    let value = T::decode(&mut words)?;
    if words.remaining() == 0 { Ok(value) } else { Err(CodecError::TooLongInput) }
}

/// The hash of words: MurmurHash3 (x86, 32 bits) with seed 0 over the words' bytes from the lowest up.
pub fn hash(words: &[u32]) -> u32 {
    let mut hash = 0u32;
    for word in words {
        hash ^= word.wrapping_mul(0xCC9E_2D51).rotate_left(15).wrapping_mul(0x1B87_3593);
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xE654_6B64);
    }
    hash ^= (words.len() as u32).wrapping_mul(4);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
    hash ^ (hash >> 16)
}

/// A value of any serde type, as CBOR. It is as canonical as the type's serialisation: as a key it must not have a
/// `HashMap` inside, and values that CBOR does not tell apart, such as `None` and `Some(())`, are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cbor<T>(pub T);

/// Why words are not a value, or a value cannot become words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The words end in the middle of a value: they are of another type.
    #[error("the words end in the middle of a value")]
    TooShort,
    /// Words are left over: they are of another type.
    #[error("words are left over after the value")]
    TooLongInput,
    /// The words have a form that no value of the type has, or the value has none.
    #[error("no value of this type: {0}")]
    Invalid(&'static str),
    /// The value is too long for the encoding.
    #[error("a length of {0} is too long for the encoding")]
    TooLong(usize),
    /// serde refused.
    #[error("the value cannot be serialised: {0}")]
    Unserializable(String),
}

fn encode_length(length: usize, words: &mut Vec<u32>) -> Result<(), CodecError> {
    words.push(u32::try_from(length).map_err(|_| CodecError::TooLong(length))?);
    Ok(())
}

fn encode_bytes(bytes: &[u8], words: &mut Vec<u32>) -> Result<(), CodecError> {
    encode_length(bytes.len(), words)?;
    let mut chunks = bytes.chunks_exact(4);
    words.extend(chunks.by_ref().map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])));
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words.push(u32::from_le_bytes(last));
    }
    Ok(())
}

fn decode_bytes(words: &mut Words<'_>) -> Result<Vec<u8>, CodecError> {
    let length = words.word()? as usize;
    let packed = words.take(length.div_ceil(4))?;
    let mut bytes = Vec::with_capacity(packed.len() * 4);
    for word in packed {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    if bytes[length..].iter().any(|padding| *padding != 0) {
        return Err(CodecError::Invalid("the padding is not zero"));
    }
    bytes.truncate(length);
    Ok(bytes)
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        (**self).encode(words)
    }
}

impl Encode for () {
    fn encode(&self, _: &mut Vec<u32>) -> Result<(), CodecError> {
        Ok(())
    }
}

impl Decode for () {
    fn decode(_: &mut Words<'_>) -> Result<(), CodecError> {
        Ok(())
    }
}

macro_rules! one_word {
    ($($type:ty),*) => {$(
        impl Encode for $type {
            #[inline]
            fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
                words.push(*self as u32);
                Ok(())
            }
        }

        impl Decode for $type {
            #[inline]
            fn decode(words: &mut Words<'_>) -> Result<$type, CodecError> {
                let word = words.word()?;
                let value = word as $type;
                if value as u32 == word { Ok(value) } else { Err(CodecError::Invalid("out of range")) }
            }
        }
    )*};
}

one_word!(u8, u16, u32, i8, i16, i32);

impl Encode for bool {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        words.push(u32::from(*self));
        Ok(())
    }
}

impl Decode for bool {
    fn decode(words: &mut Words<'_>) -> Result<bool, CodecError> {
        match words.word()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid("neither true nor false")),
        }
    }
}

impl Encode for char {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        words.push(u32::from(*self));
        Ok(())
    }
}

impl Decode for char {
    fn decode(words: &mut Words<'_>) -> Result<char, CodecError> {
        char::from_u32(words.word()?).ok_or(CodecError::Invalid("not a character"))
    }
}

impl Encode for u64 {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        words.extend([*self as u32, (*self >> 32) as u32]);
        Ok(())
    }
}

impl Decode for u64 {
    fn decode(words: &mut Words<'_>) -> Result<u64, CodecError> {
        let pair = words.take(2)?;
        Ok(u64::from(pair[0]) | u64::from(pair[1]) << 32)
    }
}

macro_rules! by_way_of {
    ($($type:ty, $through:ty, $to:expr, $from:expr;)*) => {$(
        impl Encode for $type {
            #[inline]
            fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
                let to: fn($type) -> $through = $to;
                to(*self).encode(words)
            }
        }

        impl Decode for $type {
            #[inline]
            fn decode(words: &mut Words<'_>) -> Result<$type, CodecError> {
                let from: fn($through) -> $type = $from;
                <$through>::decode(words).map(from)
            }
        }
    )*};
}

by_way_of! {
    i64, u64, |value| value as u64, |bits| bits as i64;
    f32, u32, f32::to_bits, f32::from_bits;
    f64, u64, f64::to_bits, f64::from_bits;
}

impl Encode for str {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        encode_bytes(self.as_bytes(), words)
    }
}

impl Encode for String {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        self.as_str().encode(words)
    }
}

impl Decode for String {
    fn decode(words: &mut Words<'_>) -> Result<String, CodecError> {
        String::from_utf8(decode_bytes(words)?).map_err(|_| CodecError::Invalid("not UTF-8"))
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        words.push(u32::from(self.is_some()));
        self.as_ref().map_or(Ok(()), |value| value.encode(words))
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(words: &mut Words<'_>) -> Result<Option<T>, CodecError> {
        Ok(if bool::decode(words)? { Some(T::decode(words)?) } else { None })
    }
}

impl<T: Encode> Encode for [T] {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        encode_length(self.len(), words)?;
        let before = words.len();
        self.iter().try_for_each(|element| element.encode(words))?;
        if words.len() - before < self.len() {
            return Err(CodecError::Invalid("elements of no words"));
        }
        Ok(())
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        self.as_slice().encode(words)
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(words: &mut Words<'_>) -> Result<Vec<T>, CodecError> {
        let length = words.word()? as usize;
        // Elements have words: without any, the length alone would decide how much to do.
        if length > words.remaining() {
            return Err(CodecError::TooShort);
        }
        (0..length).map(|_| T::decode(words)).collect()
    }
}

macro_rules! tuple {
    ($($name:ident),*) => {
        impl<$($name: Encode),*> Encode for ($($name,)*) {
            #[allow(non_snake_case)]
            fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
                let ($($name,)*) = self;
                $($name.encode(words)?;)*
                Ok(())
            }
        }

        impl<$($name: Decode),*> Decode for ($($name,)*) {
            fn decode(words: &mut Words<'_>) -> Result<Self, CodecError> {
                Ok(($($name::decode(words)?,)*))
            }
        }
    };
}

tuple!(A);
tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);

impl<T: Serialize> Encode for Cbor<T> {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        let mut bytes = Vec::new();
        ciborium::into_writer(&self.0, &mut bytes).map_err(|error| match error {
            ciborium::ser::Error::Value(message) => CodecError::Unserializable(message),
            ciborium::ser::Error::Io(error) => CodecError::Unserializable(error.to_string()),
        })?;
        encode_bytes(&bytes, words)
    }
}

impl<T: DeserializeOwned> Decode for Cbor<T> {
    fn decode(words: &mut Words<'_>) -> Result<Cbor<T>, CodecError> {
        let bytes = decode_bytes(words)?;
        let mut rest = bytes.as_slice();
        let value =
            ciborium::from_reader(&mut rest).map_err(|_| CodecError::Invalid("not the CBOR of this type"))?;
        if rest.is_empty() { Ok(Cbor(value)) } else { Err(CodecError::TooLongInput) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Value + PartialEq + std::fmt::Debug>(values: &[T]) {
        let mut encodings: Vec<Vec<u32>> = Vec::new();
        for value in values {
            let mut words = Vec::new();
            value.encode(&mut words).unwrap();
            assert_eq!(&decode_all::<T>(&words).unwrap(), value);
            for cut in 0..words.len() {
                assert!(decode_all::<T>(&words[..cut]).is_err(), "a part of {value:?}");
            }
            words.push(0);
            assert_eq!(decode_all::<T>(&words), Err(CodecError::TooLongInput));
            words.pop();
            encodings.push(words);
        }
        for (index, one) in encodings.iter().enumerate() {
            for other in &encodings[index + 1..] {
                assert!(!one.starts_with(other) && !other.starts_with(one), "canonical and prefix-free");
            }
        }
    }

    #[test]
    fn values_come_back_and_differ() {
        round_trip(&[0u8, 1, 255]);
        round_trip(&[i16::MIN, -1, 0, i16::MAX]);
        round_trip(&[i32::MIN, -1, 0, i32::MAX]);
        round_trip(&[0, 1, 1 << 32, u64::MAX]);
        round_trip(&[i64::MIN, -1, 0, i64::MAX]);
        round_trip(&[0.0, -0.0, 1.5, f64::INFINITY]);
        round_trip(&[true, false]);
        round_trip(&['a', 'ß', '\u{10FFFF}']);
        round_trip(&["", "a", "a\0", "a\0\0", "abcd", "abcde", "häß"].map(String::from));
        round_trip(&[None, Some(0), Some(1)]);
        round_trip(&[vec![], vec![1], vec![1, 2], vec![2, 1]]);
        round_trip(&[(1u32, String::from("x")), (1, String::from("xy")), (2, String::new())]);
        round_trip(&[Cbor((1, "x".to_owned())), Cbor((1, String::new()))]);
    }

    #[test]
    fn foreign_words_are_refused() {
        assert!(decode_all::<bool>(&[2]).is_err());
        assert!(decode_all::<u8>(&[256]).is_err());
        assert!(decode_all::<i8>(&[128]).is_err());
        assert!(decode_all::<char>(&[0xD800]).is_err());
        assert!(decode_all::<String>(&[1, 0xFF]).is_err());
        assert!(decode_all::<String>(&[1, 0x6261]).is_err(), "padding");
        assert!(decode_all::<String>(&[u32::MAX]).is_err());
        assert!(decode_all::<Vec<()>>(&[u32::MAX]).is_err());
        assert!(vec![(); 2].encode(&mut Vec::new()).is_err());
        assert!(decode_all::<Vec<u32>>(&[3, 1, 2]).is_err());
        assert!(decode_all::<Cbor<u32>>(&[2, 0x6161]).is_err());
    }

    /// From the reference implementation of MurmurHash3_x86_32 (seed 0).
    #[test]
    fn the_hash_is_the_one_written_down() {
        assert_eq!(hash(&[]), 0);
        assert_eq!(hash(&[u32::from_le_bytes(*b"test")]), 0xBA6B_D213);
    }
}
