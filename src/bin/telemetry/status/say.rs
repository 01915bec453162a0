//! Words and numbers for people.

/// So long, in two units at most; `None` (never) is a dash.
pub fn age(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return "-".into() };
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1}s"),
        10..100 => format!("{whole}s"),
        100..6000 => format!("{}m{:02}s", whole / 60, whole % 60),
        6000..172_800 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A signal's name.
pub fn signal(number: u32) -> String {
    let names = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
    ];
    let known = names.iter().find(|(known, _)| *known as u32 == number);
    known.map_or_else(|| format!("signal {number}"), |(_, name)| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let said: Vec<String> = [0.04, 9.96, 10.0, 99.9, 100.0, 5999.0, 6000.0, 172_800.0]
            .into_iter()
            .map(|s| age(Some(s)))
            .collect();
        assert_eq!(said, ["0.0s", "10.0s", "10s", "99s", "1m40s", "99m59s", "1h40m", "2d00h"]);
        assert_eq!(age(None), "-");
        assert_eq!([signal(9), signal(60)], ["SIGKILL", "signal 60"]);
    }
}
