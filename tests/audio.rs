//! Audio files, valid and damaged, through the public API; and the recordings that come with the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use voxtral::audio::{
    Channel, DecodedAudio, LoadOptions, LogMel, decode, decode_built_in, load, load_blocks, load_with, read_wav16k, write_wav16k,
};

/// One clip in every format, created by `tests/audio/make.sh`.
const FORMATS: [&str; 24] = [
    "speech.wav",
    "speech.flac",
    "speech.mp3",
    "speech-no-count.mp3",
    "speech.ogg",
    "speech.m4a",
    "speech-alac.m4a",
    "speech-stereo.wav",
    "speech.opus",
    "speech-hybrid.opus",
    "speech-stereo.opus",
    "speech-six.opus",
    "speech.webm",
    "speech-live.webm",
    "speech-opus.mp4",
    "speech-vorbis.mkv",
    "speech-flac.mka",
    "speech-pcm.mka",
    "speech-alac.caf",
    "speech.aiff",
    "speech-little.aifc",
    "speech-video.mov",
    "speech-video.mp4",
    "speech.aac",
];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn fixture(name: &str) -> PathBuf {
    root("tests/audio").join(name)
}

/// Signal-to-noise ratio of `found` in dB at the shift (up to `shift` samples) where it fits `expected` best, and that shift.
fn likeness(expected: &[f32], found: &[f32], shift: usize) -> (f64, usize) {
    let energy: f64 = expected.iter().map(|x| f64::from(*x).powi(2)).sum();
    (0..=shift)
        .map(|shift| {
            let noise: f64 = expected.iter().enumerate().map(|(n, x)| f64::from(x - found.get(n + shift).unwrap_or(&0.0)).powi(2)).sum();
            (10.0 * (energy / noise.max(1e-30)).log10(), shift)
        })
        .fold((f64::MIN, 0), |best, other| if other.0 > best.0 { other } else { best })
}

#[test]
fn every_format_gives_the_same_sound() {
    let DecodedAudio { samples: expected, rate, channels } = decode(&fixture("speech.wav")).unwrap();
    assert_eq!((rate, channels, expected.len()), (16_000, 1, 11_960));
    assert_eq!(expected, read_wav16k(&fixture("speech.wav")).unwrap());
    assert_eq!(expected, load(&fixture("speech.wav")).unwrap());
    for lossless in ["speech.flac", "speech-alac.m4a"] {
        assert!(decode(&fixture(lossless)).unwrap().samples == expected, "{lossless} is not the same");
    }
    // The loss at these bit rates, and the encoder delay where the file does not declare it.
    for (lossy, decibel, before, length) in [
        ("speech.mp3", 15.0, 0, 11_960),
        ("speech-no-count.mp3", 15.0, 1105, 13_248),
        ("speech.ogg", 12.0, 0, 11_960),
        ("speech.m4a", 12.0, 0, 12_288),
    ] {
        let found = decode(&fixture(lossy)).unwrap();
        let (likeness, shift) = likeness(&expected, &found.samples, 2048);
        assert!(likeness > decibel, "{lossy}: only {likeness:.1} dB above its noise");
        assert_eq!((shift, found.samples.len(), found.rate, found.channels), (before, length, 16_000, 1), "{lossy}");
    }
}

#[test]
fn channels_are_averaged() {
    let stereo = decode(&fixture("speech-stereo.wav")).unwrap();
    assert_eq!((stereo.rate, stereo.channels), (48_000, 2));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("three.wav");
    let spec = hound::WavSpec { channels: 3, sample_rate: 16_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for value in [3_i16, 6, 9, -3, -6, 0] {
        writer.write_sample(value * 1024).unwrap();
    }
    writer.finalize().unwrap();
    assert_eq!(decode(&path).unwrap().samples, [6.0 / 32.0, -3.0 / 32.0]);
}

/// A WAV of 16-bit frames.
fn wav(path: &Path, rate: u32, channels: u16, frames: impl Iterator<Item = Vec<f32>>) {
    let spec = hound::WavSpec { channels, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    frames.flatten().for_each(|sample| writer.write_sample((sample * 32_767.0) as i16).unwrap());
    writer.finalize().unwrap();
}

fn rms(samples: &[f32]) -> f64 {
    (samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
}

fn tone(n: usize, hertz: f64, rate: u32) -> f32 {
    (0.3 * (n as f64 * hertz * std::f64::consts::TAU / f64::from(rate)).sin()) as f32
}

fn of(channel: Channel) -> LoadOptions {
    LoadOptions { channel }
}

#[test]
fn blocks_are_the_whole_recording_and_need_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.wav");
    // The last one has more samples than are kept, so it is read twice.
    for (rate, channels, frames) in
        [(16_000, 1, 100_000), (44_100, 1, 200_001), (44_101, 2, 99_999), (8_000, 3, 50_000), (48_000, 2, 3_000_000)]
    {
        wav(&path, rate, channels, (0..frames).map(|n| (0..channels).map(|c| tone(n, 300.0 + 90.0 * f64::from(c), rate)).collect()));
        for channel in [Channel::Mix, Channel::Left, Channel::Number(channels)] {
            let whole = load_with(&path, &of(channel)).unwrap();
            let (mut samples, mut longest) = (Vec::new(), 0);
            let info = load_blocks(&path, &of(channel), &mut |block| {
                longest = longest.max(block.len());
                samples.extend_from_slice(block);
                Ok(true)
            })
            .unwrap();
            assert!(samples == whole.samples, "{rate} Hz, {channels} channels, {channel}");
            assert_eq!((info.rate, info.channels, info.samples), (rate, channels, samples.len() as u64));
            assert!((samples.len() as f64 / 16_000.0 - frames as f64 / f64::from(rate)).abs() < 1e-4);
            assert!(longest <= 65_536, "a block of {longest} samples");
            assert_eq!(info.notes, whole.notes);
        }
    }
    let mut blocks = 0;
    let info = load_blocks(&path, &LoadOptions::default(), &mut |_| {
        blocks += 1;
        Ok(blocks < 3)
    });
    assert_eq!((info.unwrap().samples > 0, blocks), (true, 3));
}

#[test]
fn the_channel_that_was_asked_for_is_read_and_no_sound_cancels_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stereo.wav");
    wav(&path, 16_000, 2, (0..32_000).map(|n| vec![tone(n, 300.0, 16_000), 0.5 * tone(n, 470.0, 16_000)]));
    let level = |channel| rms(&load_with(&path, &of(channel)).unwrap().samples);
    assert!((level(Channel::Left) / level(Channel::Right) - 2.0).abs() < 0.01);
    assert_eq!((level(Channel::Left), level(Channel::Right)), (level(Channel::Number(1)), level(Channel::Number(2))));
    let mix = load_with(&path, &of(Channel::Mix)).unwrap();
    assert!(mix.notes.is_empty() && (rms(&mix.samples) - level(Channel::Left) * (1.25_f64).sqrt() / 2.0).abs() < 1e-3);
    let error = load_with(&path, &of(Channel::Number(3))).unwrap_err();
    assert!(error.message.contains("stereo.wav has 2 channels; `channel = 3` asks for channel 3"), "{error}");

    // Phases that cancel, and a channel without sound; also in a recording that is read twice.
    for seconds in [2, 200] {
        wav(&path, 16_000, 2, (0..16_000 * seconds).map(|n| vec![tone(n, 300.0, 16_000), -tone(n, 300.0, 16_000)]));
        let found = load_with(&path, &of(Channel::Mix)).unwrap();
        assert_eq!(found.samples, load_with(&path, &of(Channel::Left)).unwrap().samples);
        assert_eq!(found.notes, ["the channels cancel each other (opposite phases): the left channel alone is used"]);
        wav(&path, 16_000, 2, (0..16_000 * seconds).map(|n| vec![0.0, tone(n, 300.0, 16_000)]));
        let found = load_with(&path, &of(Channel::Mix)).unwrap();
        assert_eq!(found.samples, load_with(&path, &of(Channel::Right)).unwrap().samples);
        assert_eq!(found.notes, ["the left channel is silent and was left out of the mix"]);
    }
    let mono = load_with(&fixture("speech.wav"), &of(Channel::Left)).unwrap();
    assert_eq!(mono.samples, load(&fixture("speech.wav")).unwrap());
    let error = load_with(&fixture("speech.wav"), &of(Channel::Right)).unwrap_err();
    assert!(error.message.contains("has 1 channel; `channel = \"right\"` asks for channel 2"), "{error}");
}

#[test]
fn studio_quality_just_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("studio.wav");
    let spec = hound::WavSpec { channels: 2, sample_rate: 96_000, bits_per_sample: 24, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    let tone = |n: u32, rate: f64| (f64::from(n) * 440.0 * std::f64::consts::TAU / rate).sin();
    for n in 0..96_000 {
        writer.write_sample((tone(n, 96_000.0) * 4_000_000.0) as i32).unwrap();
        writer.write_sample((tone(n, 96_000.0) * 2_000_000.0) as i32).unwrap();
    }
    writer.finalize().unwrap();

    let decoded = decode(&path).unwrap();
    assert_eq!((decoded.rate, decoded.channels, decoded.samples.len()), (96_000, 2, 96_000));
    let expected: Vec<f32> = (0..16_000).map(|n| (tone(n, 16_000.0) * 3_000_000.0 / 8_388_608.0) as f32).collect();
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.len(), 16_000);
    let (likeness, _) = likeness(&expected[1000..15_000], &loaded[1000..15_000], 0);
    assert!(likeness > 60.0, "{likeness:.1} dB");
}

#[test]
fn longer_than_thirty_seconds_becomes_several_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.wav");
    let clip = load(&fixture("speech.wav")).unwrap();
    let long: Vec<f32> = clip.iter().copied().cycle().take(16_000 * 61).collect();
    write_wav16k(&path, &long).unwrap();
    let loaded = load(&path).unwrap();
    assert!(loaded == long);
    let heard = LogMel::new(128).features(&loaded, 3000).unwrap();
    assert_eq!((heard.chunks, heard.frames, heard.mels, heard.data.len()), (3, 3000, 128, 3 * 3000 * 128));
    // The third chunk has one second of audio and 29 of silence.
    let third = &heard.data[2 * 3000 * 128..];
    let floor = heard.data.iter().copied().fold(f32::MAX, f32::min);
    assert!(third.chunks(3000).any(|band| band[..100].iter().any(|value| *value > floor + 1.0)));
    assert!(third.chunks(3000).all(|band| band[102..].iter().all(|value| *value == floor)));
}

#[test]
fn bad_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let says = |path: &Path, what: &str| {
        let error = load(path).unwrap_err();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.message.contains(name) && error.message.contains(what), "{name}: {error}");
        assert!(error.message.contains("cannot open") || error.message.contains("folder") || error.hint.is_some(), "{name}: no hint");
    };
    says(&folder.path().join("missing.wav"), "cannot open");
    says(folder.path(), "is a folder");
    says(&file("empty.wav", b""), "is empty (0 bytes)");
    says(&file("one-byte.wav", b"R"), "is not audio");
    says(&file("letter.mp3", "Dear reader, this is not a recording.\n".repeat(200).as_bytes()), "is not audio");
    says(&file("zeros.flac", &[0; 5000]), "is not audio");

    let wav = fs::read(fixture("speech.wav")).unwrap();
    says(&file("cut.wav", &wav[..wav.len() / 2]), "is truncated: it ends after 0.");
    says(&file("header.wav", &wav[..30]), "is truncated: it ends within its header");
    let flac = fs::read(fixture("speech.flac")).unwrap();
    says(&file("cut.flac", &flac[..flac.len() / 2]), "is truncated");
    let mp3 = fs::read(fixture("speech.mp3")).unwrap();
    says(&file("cut.mp3", &mp3[..mp3.len() / 2]), "is truncated: the header declares");
    let ogg = fs::read(fixture("speech.ogg")).unwrap();
    says(&file("cut.ogg", &ogg[..ogg.len() / 2]), "is truncated");
    let m4a = fs::read(fixture("speech.m4a")).unwrap();
    says(&file("cut.m4a", &m4a[..m4a.len() / 2]), "is truncated: the header declares 5");

    // Damage in the audio data itself, which FLAC detects by checksums.
    let mut damaged = flac.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    let error = load(&file("damaged.flac", &damaged)).unwrap_err();
    assert!(error.message.contains("damaged.flac is"), "{error}");

    let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 32, sample_format: hound::SampleFormat::Float };
    let path = folder.path().join("nothing.wav");
    hound::WavWriter::create(&path, spec).unwrap().finalize().unwrap();
    says(&path, "contains 0 samples");
    for value in [f32::NAN, f32::INFINITY] {
        let path = folder.path().join("number.wav");
        let mut writer = hound::WavWriter::create(&path, spec).unwrap();
        for n in 0..32_000 {
            writer.write_sample(if n == 16_000 { value } else { 0.0 }).unwrap();
        }
        writer.finalize().unwrap();
        says(&path, "a non-finite sample");
        says(&path, "at 1.00 s");
    }
    let path = folder.path().join("slow.wav");
    let mut writer = hound::WavWriter::create(&path, hound::WavSpec { sample_rate: 100, ..spec }).unwrap();
    writer.write_sample(0.0_f32).unwrap();
    writer.finalize().unwrap();
    says(&path, "declares a sample rate of 100 Hz");
}

/// A header may declare any length; only the samples present count.
#[test]
fn four_hours_are_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("night.wav");
    let spec = hound::WavSpec { channels: 1, sample_rate: 4_000, bits_per_sample: 8, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    writer.write_sample(0_i8).unwrap();
    writer.finalize().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let header = bytes.len() - 1 - bytes.len() % 2;
    let header = if &bytes[36..40] == b"data" { 44 } else { header };
    let length = 4 * 3600 * 4_000 + 1;
    bytes.truncate(header);
    bytes.resize(header + length as usize, 128);
    bytes[4..8].copy_from_slice(&(length + header as u32 - 8).to_le_bytes());
    bytes[header - 4..header].copy_from_slice(&length.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = decode(&path).unwrap_err();
    assert!(error.message.contains("night.wav is longer than 4 hours"), "{error}");
}

/// A truncated file is an error or, if only data after the audio is missing, complete: never a shorter clip.
#[test]
fn no_truncation_goes_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    for name in FORMATS {
        let bytes = fs::read(fixture(name)).unwrap();
        let whole = decode_built_in(&fixture(name)).unwrap();
        let path = folder.path().join(name);
        let lengths = (0..200.min(bytes.len())).chain((200..bytes.len()).step_by(bytes.len() / 100)).chain(bytes.len() - 50..bytes.len());
        for length in lengths {
            fs::write(&path, &bytes[..length]).unwrap();
            match decode_built_in(&path) {
                Err(error) => assert!(error.message.contains(name), "{error}"),
                // These files do not declare their length.
                Ok(found) if matches!(name, "speech-no-count.mp3" | "speech.aac" | "speech-live.webm") => {
                    assert!(whole.samples.len() >= found.samples.len());
                }
                Ok(found) => assert!(found == whole, "{name}: {length} of {} bytes were accepted as a complete file", bytes.len()),
            }
        }
    }
}

/// Any bytes give samples or an error: no panic, and no allocation for sizes that are only declared.
#[test]
fn garbage_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let survive = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        if let Err(error) = read_wav16k(&path) {
            assert!(error.message.contains(name), "{error}");
        }
        match decode_built_in(&path) {
            Err(error) => assert!(error.message.contains(name), "{error}"),
            Ok(found) => assert!(!found.samples.is_empty() && found.samples.iter().all(|x| x.is_finite()), "{name}"),
        }
    };
    let mut random = ChaCha8Rng::seed_from_u64(17);
    for name in FORMATS {
        let whole = fs::read(fixture(name)).unwrap();
        for _ in 0..100 {
            let mut bytes = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= random.random_range(1..=255u8);
            }
            survive(name, &bytes);
        }
        // Absurd values at every place in the header; this M4A has its header at the end.
        let header = match name {
            "speech-alac.m4a" => whole.len() - 900..whole.len() - 4,
            "speech.m4a" => 0..900,
            _ => 0..120,
        };
        for at in header {
            for number in [[0xff; 4], [0x7f, 0xff, 0xff, 0xff]] {
                let mut bytes = whole.clone();
                bytes[at..at + 4].copy_from_slice(&number);
                survive(name, &bytes);
            }
        }
    }
    for length in [1, 2, 3, 10, 100, 1000, 10_000, 100_000] {
        let noise: Vec<u8> = (0..length).map(|_| random.random()).collect();
        survive("noise.bin", &noise);
    }
}

/// The recordings that come with the repository: `(folder, language, minimum clips)`.
const SETS: [(&str, &str, usize); 3] =
    [("datasets/first-run", "en", 140), ("datasets/first-run-es", "es", 55), ("datasets/words", "en", 170)];

#[test]
fn the_recordings_of_the_repository_are_what_their_tables_say() {
    for (folder, language, least) in SETS {
        let folder = root(folder);
        let mut table = csv::Reader::from_path(folder.join("transcripts.csv")).unwrap();
        assert_eq!(table.headers().unwrap(), vec!["file", "text", "language", "speaker"]);
        let rows: Vec<csv::StringRecord> = table.records().map(|row| row.unwrap()).collect();
        assert!(rows.len() >= least, "{} clips in {}", rows.len(), folder.display());

        let mut said = BTreeSet::new();
        for row in &rows {
            let (file, text) = (&row[0], &row[1]);
            assert_eq!((&row[2], &row[3]), (language, "allison-smith"), "{file}");
            let words: Vec<String> =
                text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
            assert!(!words.is_empty() && !text.contains(['[', ']', '(', ')']) && text.trim() == text, "{file}: {text:?}");
            assert!(said.insert(words), "{file}: {text:?} is the text of two clips");

            let sound = decode(&folder.join("clips").join(file)).unwrap();
            let seconds = sound.samples.len() as f64 / f64::from(sound.rate);
            assert!((0.3..4.0).contains(&seconds), "{file} lasts {seconds} s");
            assert_eq!((sound.rate, sound.channels), (8_000, 1), "{file}");
            assert!(sound.samples.iter().any(|x| x.abs() > 0.05), "{file} is silent");
        }
        let listed: BTreeSet<String> = rows.iter().map(|row| row[0].to_owned()).collect();
        let there: BTreeSet<String> =
            fs::read_dir(folder.join("clips")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(listed, there);
        let phrases: Vec<String> = fs::read_to_string(folder.join("phrases.txt")).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(phrases, rows.iter().map(|row| row[1].to_owned()).collect::<Vec<_>>());
        let licence = fs::read_to_string(folder.join("LICENSE")).unwrap();
        assert!(licence.contains("CC-BY-SA-3.0") && licence.contains("Allison Smith"));
    }
}

/// Every clip as the pipeline loads it.
#[test]
fn the_recordings_of_the_repository_load_at_16_khz() {
    for (folder, ..) in SETS {
        for entry in fs::read_dir(root(folder).join("clips")).unwrap() {
            let path = entry.unwrap().path();
            let (decoded, loaded) = (decode(&path).unwrap(), load(&path).unwrap());
            assert_eq!(loaded.len(), decoded.samples.len() * 2, "{}", path.display());
        }
    }
}
