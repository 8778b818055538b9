//! Frames: what goes in comes out, and nothing else gets in.

use proptest::prelude::*;
use serde_bytes::ByteBuf;

use super::link::{Link, LinkError};
use super::protocol::*;
use super::sys;
use crate::base::cancel::CancelToken;

#[test]
fn a_message_survives_its_frame() {
    let step = AgentStep::CopyIn {
        input: "a".to_owned(),
        dest: "/b".to_owned(),
        mode: Some(0o755),
        owner: Some(FileOwner {
            user: "root".to_owned(),
            group: "0".to_owned(),
        }),
        kind: InputKind::Tar,
        modified: Some(7),
    };
    let frame = encode(&Request::Step(step.clone())).unwrap();
    let (decoded, length) = decode::<Request>(&frame).unwrap().unwrap();
    assert_eq!(length, frame.len());
    let Request::Step(decoded) = decoded else {
        panic!("{decoded:?}")
    };
    assert_eq!(decoded, step);
    for cut in 0..frame.len() {
        assert!(decode::<Request>(&frame[..cut]).unwrap().is_none(), "{cut}");
    }
}

#[test]
fn a_frame_is_bounded() {
    let large = Answer::Data(ByteBuf::from(vec![0; MAX_FRAME + 1]));
    assert!(matches!(encode(&large), Err(FrameError::TooLong(_))));
    assert!(encode(&Answer::Data(ByteBuf::from(vec![0; MAX_DATA]))).is_ok());
    assert!(matches!(
        decode::<Answer>(&[0xff; 4]),
        Err(FrameError::TooLong(0xffff_ffff))
    ));
    let mut trailing = encode(&Answer::Ok).unwrap();
    trailing.push(0xc0);
    trailing[0] += 1;
    assert!(matches!(
        decode::<Answer>(&trailing),
        Err(FrameError::Garbage(_))
    ));
}

#[test]
fn what_is_read_from_a_stream_is_what_was_written() {
    let mut stream = Vec::new();
    write(&mut stream, &Answer::Ok).unwrap();
    write(
        &mut stream,
        &Answer::Exited {
            code: Some(3),
            signal: None,
        },
    )
    .unwrap();
    let mut reader = stream.as_slice();
    assert!(matches!(read::<Answer>(&mut reader), Ok(Some(Answer::Ok))));
    assert!(matches!(
        read::<Answer>(&mut reader),
        Ok(Some(Answer::Exited {
            code: Some(3),
            signal: None
        }))
    ));
    assert!(matches!(read::<Answer>(&mut reader), Ok(None)));
    assert!(read::<Answer>(&mut &stream[..3]).is_err());
    assert!(read::<Answer>(&mut &stream[..stream.len() - 1][5..]).is_err());
}

#[test]
fn garbage_on_the_channel_breaks_it() {
    use std::io::Write;
    for garbage in [
        &[4, 0, 0, 0, 1, 2, 3, 4][..],
        &[0xff; 64],
        &[1, 0, 0, 0, 0xc1],
    ] {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.write_all(garbage).unwrap();
        let mut link = Link::new(ours, None, CancelToken::new(), None).unwrap();
        assert!(
            matches!(link.receive::<Answer>(), Err(LinkError::Broken(_))),
            "{garbage:?}"
        );
    }
}

#[test]
fn a_silent_channel_stops_at_its_deadline_or_when_cancelled() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(30);
    let mut link = Link::new(ours, Some(deadline), CancelToken::new(), None).unwrap();
    assert!(matches!(link.receive::<Answer>(), Err(LinkError::TimedOut)));
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let cancel = CancelToken::new();
    cancel.cancel();
    let mut link = Link::new(ours, None, cancel, None).unwrap();
    // A receiver that never reads must not hold the sender either.
    assert!(matches!(
        link.receive::<Answer>(),
        Err(LinkError::Cancelled)
    ));
    let full = Request::Data(ByteBuf::from(vec![0; MAX_DATA]));
    let stopped = (0..64).find_map(|_| link.send(&full).err());
    assert!(matches!(stopped, Some(LinkError::Cancelled)));
    drop(theirs);
}

#[test]
fn a_problem_reads_as_a_sentence() {
    let io = Problem::io("mount", "/dev/vda1", &std::io::Error::from_raw_os_error(22));
    assert_eq!(
        io.to_string(),
        "cannot mount /dev/vda1: Invalid argument (os error 22)"
    );
    let words = Problem::io("write", "/a\nb", &std::io::Error::other("the tape is full"));
    assert_eq!(words.to_string(), "cannot write (the tape is full): /a\\nb");
    assert_eq!(
        Problem::new(ProblemKind::NoShell, "the image has no /bin/sh").to_string(),
        "the image has no /bin/sh"
    );
}

#[test]
fn descriptors_are_shared_by_no_name_space() {
    let result = std::panic::catch_unwind(|| sys::unshare(rustix::thread::UnshareFlags::FILES));
    assert!(result.is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<Answer>(&bytes);
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend(&bytes);
        let _ = decode::<Answer>(&framed);
        if let Ok(Some((request, _))) = decode::<Request>(&framed) {
            // One message, one encoding that reads back.
            prop_assert!(decode::<Request>(&encode(&request).unwrap()).unwrap().is_some());
        }
    }
}
