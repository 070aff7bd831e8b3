/*
 * A preload library that records what a process does to the files below one folder: what the tests of
 * power cuts replay (tests/tests/power_cut), and from which a figure counts what reaches the flash. It is C because a preload library needs what Rust calls
 * unsafe, which this workspace forbids.
 *
 * RECORDER_ROOT  the folder whose files are recorded
 * RECORDER_LOG   where the records go, appended
 * RECORDER_ACKS  a file whose writes are recorded as acknowledgements: their place among the other
 *                records says what was promised when
 *
 * RECORDER_KILL  a promise after which, three records later, the process kills itself with signal 9: as
 *                a kill from outside, but never between an operation and its record
 *
 * A record is kind (1) | a (8) | b (8) | length of x (4) | length of y (4) | x | y, little endian:
 *
 *   C  a file was made or emptied at its creation: a its number, x its path
 *   W  written: a the file, b the offset, x the bytes
 *   T  cut or extended: a the file, b the size
 *   F  handed to the disk, which promises nothing about power: a the file, b the offset, x the length (8)
 *   S  the file was synced: a
 *   D  a folder was synced: x its path
 *   R  renamed: x from, y to
 *   U  removed: x
 *   M  a folder was made: x
 *   A  acknowledged: x the bytes
 *
 * One lock is held from before each operation until its record is written, so that the order of the
 * records is an order in which the operations happened. Syncs are recorded and not carried out: what
 * survives is decided by the replay. What bypasses libc is not seen; the test compares the whole replay
 * with the folder to find it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS_MAX 4096

enum what { NOTHING, A_FILE, A_FOLDER, ACKS };

static struct {
    enum what what;
    uint64_t number;
    char *path;
} open_files[FDS_MAX];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root, *acks, *fatal;
static int log_fd = -1, records_to_live = -1;

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("RECORDER_LOG");
    root = getenv("RECORDER_ROOT");
    acks = getenv("RECORDER_ACKS");
    fatal = getenv("RECORDER_KILL");
    if (log && root)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* A record that can't be written would make the replay a lie. */
static void record(char kind, uint64_t a, uint64_t b, const void *x, size_t xs, const void *y, size_t ys) {
    char head[25];
    uint32_t x_length = (uint32_t)xs, y_length = (uint32_t)ys;
    head[0] = kind;
    memcpy(head + 1, &a, 8);
    memcpy(head + 9, &b, 8);
    memcpy(head + 17, &x_length, 4);
    memcpy(head + 21, &y_length, 4);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)x, xs}, {(void *)y, ys}};
    if (syscall(SYS_writev, log_fd, parts, 3) != (ssize_t)(sizeof head + xs + ys))
        abort();
    if (records_to_live > 0 && --records_to_live == 0)
        kill(getpid(), SIGKILL);
    if (kind == 'A' && fatal && records_to_live < 0 && xs > strlen(fatal) && memcmp(x, fatal, strlen(fatal)) == 0)
        records_to_live = 3;
}

static int is_ours(const char *path) {
    size_t length = root ? strlen(root) : 0;
    return log_fd >= 0 && path && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static void record_path(char kind, const char *path) {
    record(kind, 0, 0, path, strlen(path), NULL, 0);
}

static void forget(int fd) {
    if (fd < 0 || fd >= FDS_MAX)
        return;
    free(open_files[fd].path);
    open_files[fd].path = NULL;
    open_files[fd].what = NOTHING;
}

static void remember(int fd, const char *path, int existed, int flags) {
    struct stat found;
    if (fd < 0 || fd >= FDS_MAX || fstat(fd, &found) != 0)
        return;
    forget(fd);
    open_files[fd].number = found.st_ino;
    if (S_ISDIR(found.st_mode)) {
        open_files[fd].what = A_FOLDER;
        open_files[fd].path = strdup(path);
        return;
    }
    open_files[fd].what = A_FILE;
    if (!existed)
        record('C', found.st_ino, 0, path, strlen(path), NULL, 0);
    else if ((flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY)
        record('T', found.st_ino, 0, NULL, 0, NULL, 0);
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    int is_acks = log_fd >= 0 && acks && path && strcmp(path, acks) == 0;
    if (!is_acks && !is_ours(path)) {
        int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
        if (log_fd >= 0) {
            pthread_mutex_lock(&lock);
            forget(fd);
            pthread_mutex_unlock(&lock);
        }
        return fd;
    }
    pthread_mutex_lock(&lock);
    struct stat before;
    int existed = stat(path, &before) == 0;
    int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    int error = errno;
    if (fd >= 0 && is_acks && fd < FDS_MAX) {
        forget(fd);
        open_files[fd].what = ACKS;
    } else if (fd >= 0) {
        remember(fd, path, existed, flags);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                      \
    int name(const char *path, int flags, ...) {        \
        va_list rest;                                   \
        va_start(rest, flags);                          \
        mode_t mode = mode_of(flags, rest);             \
        va_end(rest);                                   \
        return open_at(AT_FDCWD, path, flags, mode);    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                            \
    int name(int folder, const char *path, int flags, ...) {    \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = mode_of(flags, rest);                     \
        va_end(rest);                                           \
        return open_at(folder, path, flags, mode);              \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    pthread_mutex_lock(&lock);
    forget(fd);
    int result = (int)syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return result;
}

/* What an open descriptor is; the lock is held when it is one of ours. */
static enum what enter(int fd) {
    if (log_fd < 0 || fd < 0 || fd >= FDS_MAX)
        return NOTHING;
    pthread_mutex_lock(&lock);
    enum what what = open_files[fd].what;
    if (what == NOTHING)
        pthread_mutex_unlock(&lock);
    return what;
}

static ssize_t leave(ssize_t result) {
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

static void record_write(int fd, off_t at, const void *bytes, ssize_t written) {
    if (written <= 0)
        return;
    if (open_files[fd].what == ACKS)
        record('A', 0, 0, bytes, (size_t)written, NULL, 0);
    else
        record('W', open_files[fd].number, (uint64_t)at, bytes, (size_t)written, NULL, 0);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (enter(fd) == NOTHING)
        return syscall(SYS_write, fd, bytes, count);
    ssize_t written = syscall(SYS_write, fd, bytes, count);
    if (written > 0)
        record_write(fd, lseek(fd, 0, SEEK_CUR) - written, bytes, written);
    return leave(written);
}

/* In two parts where a caller gives two: only the first is written, as a short write may. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (enter(fd) == NOTHING)
        return syscall(SYS_writev, fd, parts, count);
    leave(0);
    return count > 0 ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    if (enter(fd) == NOTHING)
        return syscall(SYS_pwrite64, fd, bytes, count, at);
    ssize_t written = syscall(SYS_pwrite64, fd, bytes, count, at);
    record_write(fd, at, bytes, written);
    return leave(written);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return pwrite64(fd, bytes, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    return count > 0 ? pwrite64(fd, parts[0].iov_base, parts[0].iov_len, at) : 0;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    return pwritev64(fd, parts, count, at);
}

int ftruncate64(int fd, off64_t size) {
    if (enter(fd) == NOTHING)
        return (int)syscall(SYS_ftruncate, fd, size);
    int result = (int)syscall(SYS_ftruncate, fd, size);
    if (result == 0)
        record('T', open_files[fd].number, (uint64_t)size, NULL, 0, NULL, 0);
    return (int)leave(result);
}

int ftruncate(int fd, off_t size) {
    return ftruncate64(fd, size);
}

static int sync_it(int fd, long number) {
    enum what what = enter(fd);
    if (what == NOTHING)
        return (int)syscall(number, fd);
    if (what == A_FOLDER)
        record_path('D', open_files[fd].path);
    else if (what == A_FILE)
        record('S', open_files[fd].number, 0, NULL, 0, NULL, 0);
    return (int)leave(0);
}

int fsync(int fd) {
    return sync_it(fd, SYS_fsync);
}

int fdatasync(int fd) {
    return sync_it(fd, SYS_fdatasync);
}

int sync_file_range(int fd, off64_t from, off64_t count, unsigned flags) {
    if (enter(fd) == NOTHING)
        return (int)syscall(SYS_sync_file_range, fd, from, count, flags);
    uint64_t length = (uint64_t)count;
    record('F', open_files[fd].number, (uint64_t)from, &length, sizeof length, NULL, 0);
    return (int)leave(0);
}

int rename(const char *from, const char *to) {
    if (!is_ours(from))
        return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (result == 0)
        record('R', 0, 0, from, strlen(from), to, strlen(to));
    return (int)leave(result);
}

int unlink(const char *path) {
    if (!is_ours(path))
        return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result == 0)
        record_path('U', path);
    return (int)leave(result);
}

int mkdir(const char *path, mode_t mode) {
    if (!is_ours(path))
        return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (result == 0)
        record_path('M', path);
    return (int)leave(result);
}
