//! The complete workflow in a real browser, with a fake microphone that plays real speech; then a run of the same pipeline in a shell.
//!
//! Each page is checked in three window sizes, light and dark. `UPDATE=1` saves the screenshots for the documentation.

use super::*;
use crate::browser::{Browser, Page};
use crate::hub::peer::{Hub, WRITE};
use crate::support::skipped;

const SENTENCES: [&str; 12] = [
    "Please enter your password.",
    "You are number one.",
    "The line is busy.",
    "Say the number again.",
    "Your call is first.",
    "Please hold the line.",
    "Enter the new number now.",
    "The password is not right.",
    "Press one to go on.",
    "Goodbye and thank you.",
    "There are two messages.",
    "Nobody is at home.",
];
/// Window sizes: phone, laptop, wide screen.
const SIZES: [(u32, u32); 3] = [(390, 844), (1280, 800), (1920, 1080)];

/// Writes the audio that the fake microphone plays in a loop: speech with pauses.
fn microphone(to: &Path) {
    let mut reader = hound::WavReader::open(own("tests/audio/speech.wav")).unwrap();
    let speech: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    let spec = hound::WavSpec { channels: 1, sample_rate: 48_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(to, spec).unwrap();
    // Background noise, because even a quiet room is not completely silent.
    let mut room = (0_u32..).map(|at| (at.wrapping_mul(2_654_435_761) >> 29) as i16 - 4);
    for _ in 0..14_400 {
        writer.write_sample(room.next().unwrap()).unwrap();
    }
    for sample in &speech {
        (0..3).for_each(|_| writer.write_sample(sample.saturating_add(room.next().unwrap())).unwrap());
    }
    writer.finalize().unwrap();
}

/// Checks a page in all window sizes and color schemes: no horizontal overflow, no accessibility violations.
fn look(page: &mut Page, name: &str) {
    let keep = |size: &str, picture: Vec<u8>| {
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 5000);
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(own("docs/studio")).unwrap();
            fs::write(own("docs/studio").join(format!("{name}{size}.png")), picture).unwrap();
        }
    };
    for (size, (width, height)) in ["-phone", "", "-wide"].into_iter().zip(SIZES) {
        page.size(width, height);
        assert!(!page.is_too_wide(), "{name} is wider than a window of {width}");
        keep(size, page.picture());
    }
    for dark in [true, false] {
        page.dark(dark);
        if let Some(violations) = page.violations() {
            assert!(violations.is_empty(), "{name}, dark {dark}: {violations:#?}");
        }
    }
    page.size(1280, 800);
}

/// Records one take of the displayed sentence. Returns the verdict of the server.
fn record(page: &mut Page) -> String {
    page.wait("!voxpipeRecorder.state().recording");
    page.eval("document.querySelector('#verdict').dataset.verdict = ''");
    page.key("Space");
    page.wait("voxpipeRecorder.state().recording");
    std::thread::sleep(Duration::from_millis(1300));
    page.key("Space");
    page.wait("['ok', 'warn', 'reject'].includes(document.querySelector('#verdict').dataset.verdict)");
    page.eval("document.querySelector('#verdict').dataset.verdict + ': ' + document.querySelector('#verdict').innerText")
        .as_str()
        .unwrap()
        .to_owned()
}

/// Records until a take is accepted, and continues with the next sentence.
fn good(page: &mut Page) {
    // The browser's microphone may drop samples on a busy machine, so allow a few attempts.
    let mut rejected = Vec::new();
    for _ in 0..5 {
        let verdict = record(page);
        match verdict.split(':').next() {
            Some("ok") => return,
            // With a warning, the page waits for a confirmation.
            Some("warn") => return page.key("Enter"),
            _ => rejected.push(verdict),
        }
    }
    panic!("five takes were rejected: {rejected:#?}");
}

#[test]
fn a_voice_becomes_a_published_model_in_the_browser() {
    let what = "the journey in a browser";
    let sandbox = Sandbox::new();
    for (name, bytes) in files(&own("pipelines/models/voxtral-nano")) {
        fs::create_dir_all(sandbox.path("models/nano")).unwrap();
        fs::write(sandbox.path("models/nano").join(name), bytes).unwrap();
    }
    let sound = sandbox.path("../microphone.wav");
    microphone(&sound);
    // Chromium does not open paths that contain `..`.
    let Some(browser) = Browser::start(what, &sound.canonicalize().unwrap()) else { return };
    if std::env::var_os("VOXPIPE_TEST_AXE").is_none() {
        skipped("the accessibility of the pages", "VOXPIPE_TEST_AXE does not name the axe.min.js of axe-core");
    }
    let hub = Hub::start();
    let mut command = sandbox.command(&["studio", "--port", "0"]);
    command.env("HF_ENDPOINT", &hub.address).env("HF_HOME", sandbox.path("../home/hf")).env("HF_TOKEN", WRITE);
    let server = Server::of(command);
    let at = |path: &str| format!("http://127.0.0.1:{}{path}", server.port);

    // Language and sentences.
    let mut page = browser.page(&at("/"));
    page.wait("document.querySelectorAll('#language option').length >= 26");
    look(&mut page, "1-language");
    page.eval("document.querySelector('#language').value = 'en'");
    page.click("[name=source][value=own]");
    page.fill("#text", &SENTENCES.join("\n"));
    page.fill("#name", "my-voice");
    page.fill("#speaker", "me");
    page.fill("#minimum", "12");
    page.click("details summary");
    page.fill("#base", "models/nano");
    page.click("#go");
    page.wait("location.pathname === '/record' && window.voxpipeRecorder");

    // Twelve recordings with the keyboard only; one is repeated, one is rejected because the microphone is muted.
    page.eval(
        "(() => { const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); \
         navigator.mediaDevices.getUserMedia = async (wanted) => (window.heard = await ask(wanted)); })()",
    );
    page.click("#microphone");
    page.wait("!document.querySelector('#noise-skip').disabled");
    page.click("#noise-skip");
    page.wait("window.heard");
    look(&mut page, "2-record");
    let first = page.eval("voxpipeRecorder.state().phrase");
    good(&mut page);
    page.wait("voxpipeRecorder.state().recorded === 1");
    page.wait(&format!("voxpipeRecorder.state().phrase !== {first}"));
    page.eval("window.heard.getAudioTracks()[0].enabled = false");
    // The recorder prepends audio from just before the take, so wait until that is silent too.
    std::thread::sleep(Duration::from_secs(1));
    let silent = record(&mut page);
    assert!(silent.starts_with("reject") && silent.contains("silent"), "{silent}");
    page.eval("window.heard.getAudioTracks()[0].enabled = true");
    look(&mut page, "3-rejected");
    for recorded in 2..=12 {
        let phrase = page.eval("voxpipeRecorder.state().phrase");
        good(&mut page);
        page.wait(&format!("voxpipeRecorder.state().recorded === {recorded}"));
        if recorded < 12 {
            page.wait(&format!("voxpipeRecorder.state().phrase !== {phrase}"));
        }
    }
    // Go back and record another take.
    page.wait("voxpipeRecorder.state().waiting === 0");
    page.click("#back");
    let again = page.eval("voxpipeRecorder.state().phrase");
    record(&mut page);
    let second = sandbox.path("recordings").join(format!("{}.2.wav", again.as_str().unwrap()));
    let begun = Instant::now();
    while !second.is_file() {
        assert!(begun.elapsed() < Duration::from_secs(20), "there is no second take of {again}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // All recordings are still there after a reload.
    page.go(&at("/record"));
    page.wait("window.voxpipeRecorder && voxpipeRecorder.state().recorded === 12");
    page.wait("/^Letter-pair coverage.* (\\d+) of \\1\\.$/.test(document.querySelector('#coverage').textContent)");
    look(&mut page, "4-recorded");

    // Training: the form and the pipeline file.
    page.go(&at("/training"));
    page.wait("document.querySelector('[name=\"train.epochs\"]')");
    page.fill("[name='train.epochs']", "4");
    page.fill("[name='train.learning_rate']", "0.001");
    page.fill("[name='train.gradient_accumulation']", "1");
    page.fill("[name='publish.target']", "hub");
    page.fill("[name='publish.repo']", "my-voice");
    page.click("#save");
    page.wait("document.querySelector('#saved').textContent === 'Saved.'");
    page.eval("document.querySelector('#text').value = document.querySelector('#text').value.replace('train = 0.9, test = 0.1', 'train = 0.6, test = 0.4')");
    page.click("#keep");
    page.wait("document.querySelector('#kept').textContent === 'Saved.'");
    look(&mut page, "5-training");
    page.click("#run");

    // The run, with a live training curve.
    page.wait("location.pathname === '/run'");
    page.wait("document.querySelector('#curves img') && document.querySelector('#curves img').naturalWidth");
    page.wait("Number(document.querySelector('#last').dataset.step) > 3");
    page.wait("document.querySelector('[data-stage=published]')?.dataset.state === 'done'");
    page.wait("document.body.dataset.running === 'false'");
    look(&mut page, "6-run");
    // Compare this run with the one that made the sentences.
    page.click("#compare");
    page.wait("document.querySelector('#difference table')");
    assert!(!page.is_too_wide());
    assert!(hub.files("model", "alice/my-voice").contains_key("adapter_model.safetensors"));

    // Listen to the dataset and try the model.
    page.go(&at("/dataset"));
    page.wait("document.querySelectorAll('#rows tbody tr').length === 12 || document.querySelector('#left li')");
    look(&mut page, "7-dataset");
    page.go(&at("/after"));
    page.wait("document.querySelector('#scores table')");
    page.click("#speak");
    page.wait("document.querySelector('#speak').getAttribute('aria-pressed') === 'true'");
    std::thread::sleep(Duration::from_millis(1500));
    page.click("#speak");
    page.wait("document.querySelectorAll('[data-model][data-done]').length === 2");
    assert!(!page.eval("document.querySelector('#try').innerText").as_str().unwrap().contains("transcription failed"));
    look(&mut page, "8-result");
    assert_eq!(page.errors(), Vec::<String>::new());

    // A run of the same pipeline in a shell: everything is up to date.
    let mut shell = sandbox.command(&["run", "--json"]);
    shell.env("HF_ENDPOINT", &hub.address).env("HF_HOME", sandbox.path("../home/hf")).env("HF_TOKEN", WRITE);
    let told = crate::support::Ran::of(shell.output().unwrap()).exits(0).json();
    assert!(told["stages"].as_array().unwrap().iter().all(|stage| stage[1]["result"] == "fresh"), "{told}");
    server.stop();
}

#[test]
fn a_take_waits_in_the_browser_until_the_server_is_back() {
    let (sandbox, server) = begun(3, 3);
    let sound = sandbox.path("../microphone.wav");
    microphone(&sound);
    let Some(browser) = Browser::start("takes that wait in a browser", &sound.canonicalize().unwrap()) else { return };
    let port = server.port;
    let mut page = browser.page(&format!("http://127.0.0.1:{port}/record"));
    page.wait("window.voxpipeRecorder");
    page.click("#microphone");
    page.wait("!document.querySelector('#noise-skip').disabled");
    page.click("#noise-skip");
    server.kill();
    page.key("Space");
    page.wait("voxpipeRecorder.state().recording");
    std::thread::sleep(Duration::from_millis(1300));
    page.key("Space");
    page.wait("voxpipeRecorder.state().waiting === 1");
    assert!(!sandbox.path("recordings").exists());
    let server = Server::start(&sandbox, &["studio", "--port", &port.to_string()]);
    page.eval("window.dispatchEvent(new Event('online'))");
    page.wait("voxpipeRecorder.state().waiting === 0");
    let kept = files(&sandbox.path("recordings"));
    assert_eq!(kept.values().filter(|bytes| bytes.starts_with(b"RIFF")).count(), 1, "{:?}", kept.keys());
    server.stop();
}

#[test]
fn recordings_that_exist_are_paired_on_the_page() {
    let sandbox = Sandbox::new();
    let sound = sandbox.path("../microphone.wav");
    microphone(&sound);
    let Some(browser) = Browser::start("uploads in a browser", &sound.canonicalize().unwrap()) else { return };
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    server.post("/api/begin", &json!({ "language": "en", "way": "recordings", "name": "mine", "base": "nowhere" })).is(200);
    let mut page = browser.page(&format!("http://127.0.0.1:{}/uploads", server.port));
    page.wait("document.querySelector('#files')");
    let mut files = Vec::new();
    let table = b"file,text\n\"a.wav\",\"One, and two.\"\nc.wav,Nobody said this.\n".to_vec();
    for (name, bytes) in [("a.wav", take(0)), ("b.wav", take(1)), ("transcripts.csv", table)] {
        files.push(sandbox.path("..").canonicalize().unwrap().join(name));
        fs::write(files.last().unwrap(), bytes).unwrap();
    }
    page.upload("#files", &files);
    page.wait("document.querySelector('#preview p')");
    page.wait("document.querySelector('#preview').innerText.includes('1 of 2 recordings have a transcript in transcripts.csv')");
    let said = page.eval("document.querySelector('#preview').innerText").as_str().unwrap().to_owned();
    assert!(said.contains("b.wav: no transcript") && said.contains("c.wav: no recording"), "{said}");
    page.click("#list tbody button");
    page.wait("document.querySelector('#list canvas')");
    look(&mut page, "uploads");
    // After a run, the page shows which files the stage could not match.
    server.run();
    page.go(&format!("http://127.0.0.1:{}/uploads", server.port));
    page.wait("document.querySelectorAll('#pairing li').length === 2");
    let unmatched = page.eval("document.querySelector('#pairing').innerText").as_str().unwrap().to_owned();
    assert!(unmatched.contains("uploads/b.wav: no transcript"), "{unmatched}");
    assert!(unmatched.contains("c.wav (uploads/transcripts.csv:3): no recording"), "{unmatched}");
    assert_eq!(page.errors(), Vec::<String>::new());
}
