//! Opus: the identification header and the decoder, whatever the container. `ropus` decodes; its output is that of the reference decoder.

use ropus::{Channels, DecodeMode, Decoder, OpusMSDecoder};

/// Rate of decoded Opus in Hz, whatever the rate of the recording was.
pub(super) const RATE: u32 = 48_000;
/// Frames of the longest packet: 120 ms.
const LONGEST_PACKET: usize = 5760;

/// The identification header: `OpusHead` of Ogg and Matroska, `dOps` of MP4.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OpusHead {
    pub(super) channels: u8,
    /// Frames at the start that are no sound yet.
    pub(super) pre_skip: u16,
    /// Gain in 1/256 dB.
    gain: i16,
    /// Streams, those of them with two channels, and the decoded channel of each output channel; `None` for mono and stereo.
    mapping: Option<(u8, u8, Vec<u8>)>,
}

impl OpusHead {
    /// Reads the header. MP4 has its numbers in big-endian order.
    pub(super) fn read(bytes: &[u8], big_endian: bool) -> Option<Self> {
        let rest = bytes.strip_prefix(b"OpusHead")?;
        let number = |at: usize| -> Option<u16> {
            let two = *rest.get(at..)?.first_chunk()?;
            Some(if big_endian { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) })
        };
        let (version, channels, family) = (*rest.first()?, *rest.get(1)?, *rest.get(10)?);
        let mapping = match family {
            0 => None,
            _ => Some((*rest.get(11)?, *rest.get(12)?, rest.get(13..13 + usize::from(channels))?.to_vec())),
        };
        let valid = version < 16 && channels > 0 && (family != 0 || channels <= 2);
        valid.then_some(Self { channels, pre_skip: number(2)?, gain: number(8)?.cast_signed(), mapping })
    }

    /// The header of a file that has none.
    pub(super) fn without_header(channels: u8) -> Self {
        Self { channels: channels.clamp(1, 2), pre_skip: 0, gain: 0, mapping: None }
    }
}

enum Streams {
    One(Box<Decoder>),
    Several(Box<OpusMSDecoder>, Vec<i16>),
}

/// A decoder of Opus packets.
pub(super) struct OpusCodec {
    streams: Streams,
    pub(super) channels: u16,
    gain: f32,
    decoded: Vec<f32>,
}

impl OpusCodec {
    pub(super) fn new(head: &OpusHead) -> Result<Self, String> {
        let channels = usize::from(head.channels);
        let streams = match &head.mapping {
            None => {
                let channels = if channels == 1 { Channels::Mono } else { Channels::Stereo };
                Streams::One(Box::new(Decoder::new(RATE, channels).map_err(|error| format!("{error:?}"))?))
            }
            Some((streams, coupled, mapping)) => {
                let numbers = (i32::from(head.channels), i32::from(*streams), i32::from(*coupled));
                let wrong = |code: i32| format!("an invalid mapping of {channels} channels (error {code})");
                if *streams == 0 || coupled > streams || u16::from(*streams) + u16::from(*coupled) > 255 {
                    return Err(wrong(-1));
                }
                let decoder = OpusMSDecoder::new(RATE.cast_signed(), numbers.0, numbers.1, numbers.2, mapping).map_err(wrong)?;
                Streams::Several(Box::new(decoder), vec![0; LONGEST_PACKET * channels])
            }
        };
        let gain = 10_f32.powf(f32::from(head.gain) / (20.0 * 256.0));
        Ok(Self { streams, channels: u16::from(head.channels), gain, decoded: vec![0.0; LONGEST_PACKET * channels] })
    }

    /// Appends the samples of a packet.
    pub(super) fn decode(&mut self, packet: &[u8], interleaved: &mut Vec<f32>) -> Result<(), String> {
        if packet.is_empty() {
            return Ok(());
        }
        let channels = usize::from(self.channels);
        let invalid = |error: &dyn std::fmt::Debug| format!("invalid Opus packet ({error:?})");
        let frames = match &mut self.streams {
            Streams::One(decoder) => {
                decoder.decode_float(packet, &mut self.decoded, DecodeMode::Normal).map_err(|error| invalid(&error))?
            }
            Streams::Several(decoder, decoded) => {
                let length = i32::try_from(packet.len()).map_err(|error| invalid(&error))?;
                let frames =
                    decoder.decode(Some(packet), length, decoded, LONGEST_PACKET as i32, false).map_err(|error| invalid(&error))?;
                for (sample, value) in self.decoded.iter_mut().zip(decoded.iter()) {
                    *sample = f32::from(*value) / 32_768.0;
                }
                usize::try_from(frames).unwrap_or(0)
            }
        };
        let samples = self.decoded.get(..frames * channels).unwrap_or_default();
        if self.gain == 1.0 {
            interleaved.extend_from_slice(samples);
        } else {
            interleaved.extend(samples.iter().map(|sample| sample * self.gain));
        }
        Ok(())
    }
}

/// Frames of a packet at 48 kHz, as its first bytes say; 0 for none.
pub(super) fn packet_frames(packet: &[u8]) -> u64 {
    let Some(first) = packet.first() else { return 0 };
    let (config, code) = (first >> 3, first & 3);
    let frame = match config {
        0..12 => [480, 960, 1920, 2880][usize::from(config % 4)],
        12..16 => [480, 960][usize::from(config % 2)],
        _ => [120, 240, 480, 960][usize::from(config % 4)],
    };
    let count = match code {
        0 => 1,
        1 | 2 => 2,
        _ => packet.get(1).map_or(0, |byte| u64::from(byte & 63)),
    };
    frame * count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_in_both_byte_orders() {
        let head = |rest: &[u8]| [b"OpusHead".as_slice(), rest].concat();
        let mono = head(&[1, 1, 0x38, 1, 0x80, 0xbb, 0, 0, 0, 0xff, 0]);
        let read = OpusHead::read(&mono, false).unwrap();
        assert_eq!((read.channels, read.pre_skip, read.gain, &read.mapping), (1, 312, -256, &None));
        assert!((OpusCodec::new(&read).unwrap().gain - 0.8913).abs() < 1e-4, "-1 dB");
        assert_eq!(OpusHead::read(&head(&[0, 2, 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0, 0]), true).unwrap().pre_skip, 312);
        let six = head(&[1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 2, 0, 4, 1, 2, 3, 5]);
        assert_eq!(OpusHead::read(&six, false).unwrap().mapping, Some((4, 2, vec![0, 4, 1, 2, 3, 5])));
        assert_eq!(OpusCodec::new(&OpusHead::read(&six, false).unwrap()).unwrap().channels, 6);
        for length in 0..six.len() {
            assert_eq!(OpusHead::read(&six[..length], false), None);
        }
        for wrong in [[0, 0], [0, 3], [0, 255]] {
            let mut bytes = mono.clone();
            bytes[9] = wrong[1];
            assert_eq!(OpusHead::read(&bytes, false), None);
        }
        let mut odd = six.clone();
        odd[20] = 9;
        assert!(OpusCodec::new(&OpusHead::read(&odd, false).unwrap()).is_err());
    }

    #[test]
    fn the_length_of_a_packet_is_in_its_first_bytes() {
        for (packet, frames) in
            [(&[0x08_u8][..], 960), (&[0x18], 2880), (&[0x7b, 3], 3 * 480 * 2), (&[0xfc], 960), (&[0x81], 240), (&[], 0), (&[3], 0)]
        {
            assert_eq!(packet_frames(packet), frames, "{packet:?}");
        }
    }
}
