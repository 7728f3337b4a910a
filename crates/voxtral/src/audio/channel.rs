//! Which channel of a recording is read.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The channel of a recording to read: `"mix"` (all of them), `"left"`, `"right"`, or a number counting from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// The mean of all channels that have sound. Where they cancel each other, the loudest one is taken.
    #[default]
    Mix,
    /// The first channel.
    Left,
    /// The second channel.
    Right,
    /// A channel by its number, counting from 1.
    Number(u16),
}

/// Largest channel number that can be asked for; no format that is read has more channels.
const MOST: u16 = 255;
const EXPECTED: &str = "\"mix\", \"left\", \"right\" or the number of a channel, counting from 1";

impl Channel {
    /// Whether this is [`Channel::Mix`], the default.
    pub fn is_mix(&self) -> bool {
        *self == Self::Mix
    }

    /// Number of the channel, counting from 1; `None` for the mixdown.
    pub fn number(self) -> Option<u16> {
        match self {
            Self::Mix => None,
            Self::Left => Some(1),
            Self::Right => Some(2),
            Self::Number(number) => Some(number),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mix => f.write_str("mix"),
            Self::Left => f.write_str("left"),
            Self::Right => f.write_str("right"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl FromStr for Channel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "mix" => Ok(Self::Mix),
            "left" => Ok(Self::Left),
            "right" => Ok(Self::Right),
            number => match number.parse() {
                Ok(number) if (1..=MOST).contains(&number) => Ok(Self::Number(number)),
                _ => Err(format!("`{text}` is no channel: expected {EXPECTED}")),
            },
        }
    }
}

impl Serialize for Channel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(u64::from(*number)),
            word => serializer.collect_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Written by hand: the error of a derived untagged enum does not say what was expected.
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Channel;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Channel, E> {
                match u16::try_from(number) {
                    Ok(number) if (1..=MOST).contains(&number) => Ok(Channel::Number(number)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Channel, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Channel, E> {
                match word.parse() {
                    // A number is written as one, so that a setting has one form.
                    Ok(Channel::Number(_)) | Err(_) => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                    Ok(channel) => Ok(channel),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Channel {
    fn schema_name() -> Cow<'static, str> {
        "Channel".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The channel of a recording to read: `\"mix\"` (all of them), `\"left\"`, `\"right\"`, or a number counting from 1.",
            "anyOf": [
                { "type": "string", "enum": ["mix", "left", "right"] },
                { "type": "integer", "minimum": 1, "maximum": MOST }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_a_word_or_a_number_from_one_on() {
        for (json, channel) in
            [("\"mix\"", Channel::Mix), ("\"left\"", Channel::Left), ("\"right\"", Channel::Right), ("3", Channel::Number(3))]
        {
            assert_eq!(serde_json::from_str::<Channel>(json).unwrap(), channel);
            assert_eq!(serde_json::to_string(&channel).unwrap(), json);
            assert_eq!(channel.to_string().parse::<Channel>().unwrap(), channel);
        }
        for wrong in ["0", "-1", "256", "1.5", "\"3\"", "\"centre\"", "true", "null"] {
            let error = serde_json::from_str::<Channel>(wrong).unwrap_err().to_string();
            assert!(error.contains("\"mix\", \"left\", \"right\" or the number of a channel"), "{wrong}: {error}");
        }
        for wrong in ["0", "", "Left", "70000", "1 "] {
            assert!(wrong.parse::<Channel>().unwrap_err().contains("is no channel"), "{wrong}");
        }
    }
}
