//! Sound like speech, for tests: a buzzing voice through moving resonances, syllable after syllable. No two seeds sound alike.

/// Samples at 16 kHz of about four syllables a second; the loudest has the amplitude 0.5. A different `seed` is a different utterance.
pub(crate) fn speech_like(seconds: f64, seed: u64) -> Vec<f32> {
    const RATE: f64 = 16_000.0;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    // Resonances of vowels, in Hz.
    const VOWELS: [[f64; 3]; 6] =
        [[730.0, 1090.0, 2440.0], [270.0, 2290.0, 3010.0], [300.0, 870.0, 2240.0], [530.0, 1840.0, 2480.0], [570.0, 840.0, 2410.0], [490.0, 1350.0, 1690.0]];
    let number = (seconds * RATE).round() as usize;
    let pitch = 95.0 + 90.0 * random();
    let mut samples = Vec::with_capacity(number);
    let (mut phase, mut memory) = (0.0, [[0.0_f64; 2]; 3]);
    let (mut from, mut to) = (VOWELS[(random() * 6.0) as usize % 6], VOWELS[(random() * 6.0) as usize % 6]);
    let (mut at, mut length, mut hiss) = (0.0, 0.22, false);
    while samples.len() < number {
        let share = at / length;
        let loud = (std::f64::consts::PI * share).sin().powf(0.6);
        phase += pitch * (1.15 - 0.25 * share + 0.01 * random()) / RATE;
        let pulse = if phase >= 1.0 { phase -= 1.0; 1.0 } else { 0.0 };
        let breath = (random() - 0.5) * 0.02;
        let consonant = hiss && share < 0.3;
        let mut sound = if consonant { 0.0 } else { pulse - 0.01 + breath };
        for (formant, memory) in memory.iter_mut().enumerate() {
            let hertz = from[formant] + (to[formant] - from[formant]) * share;
            let radius = (-std::f64::consts::PI * (60.0 + 40.0 * formant as f64) / RATE).exp();
            let cosine = 2.0 * radius * (std::f64::consts::TAU * hertz / RATE).cos();
            let next = sound * (1.0 - radius) * 4.0 + cosine * memory[0] - radius * radius * memory[1];
            *memory = [next, memory[0]];
            sound = next + 0.3 * sound;
        }
        samples.push((loud * sound + if consonant { 0.1 * (random() - 0.5) } else { 0.0 }) as f32);
        at += 1.0 / RATE;
        if at >= length {
            (from, to) = (to, VOWELS[(random() * 6.0) as usize % 6]);
            (at, length, hiss) = (0.0, 0.16 + 0.12 * random(), random() < 0.5);
        }
    }
    let peak = samples.iter().fold(f32::MIN_POSITIVE, |peak, sample| peak.max(sample.abs()));
    samples.iter_mut().for_each(|sample| *sample *= 0.5 / peak);
    samples
}
