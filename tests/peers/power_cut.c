/* What a power cut leaves behind, for the tests: loaded before a program (LD_PRELOAD), this library journals how to undo
 * each change below one folder, and notes which changes a sync made durable. After `kill -9` the test undoes what was
 * never synced (tests/src/power_cut.rs reads the journal), and so throws away what a disk without power may lose.
 *
 *   POWER_CUT_ROOT      the folder that is watched: an absolute path without symbolic links
 *   POWER_CUT_JOURNAL   a folder on the same file system, outside the watched one: journal, and links to what was
 *                       removed or replaced
 *   POWER_CUT_IGNORE    when set, a sync makes nothing durable: what a disk that lies does
 *
 * Journalled before they happen: write, pwrite, ftruncate, O_TRUNC, creating, linking, renaming and removing files,
 * making folders. fsync and fdatasync of a file make its content and length durable, of a folder its entries; nothing
 * else does. Not simulated: changes by mapped memory, and by the calls that are journalled as UNKNOWN, which the test
 * refuses. Calls that bypass the C library are not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 'W', TRUNCATE = 'T', CREATE = 'C', RENAME = 'R', LINK = 'L', UNLINK = 'U', MKDIR = 'M', SYNC = 'S', UNKNOWN = 'X' };

struct record {
    uint32_t magic, kind;
    uint64_t inode;        /* of the file, or of the folder whose entry changes */
    uint64_t a, b, c;
    uint32_t path_bytes, other_bytes;
    uint64_t data_bytes;
};

#define KEPT_MAX (PATH_MAX + 32)
#define MAGIC 0x314a4350u

static char root[PATH_MAX], folder[PATH_MAX];
static int journal = -1, ignore_sync;
static uint64_t position;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ({ static __typeof__(&name) found; if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name); found; })

__attribute__((constructor)) static void begin(void) {
    const char *watched = getenv("POWER_CUT_ROOT"), *place = getenv("POWER_CUT_JOURNAL");
    if (!watched || !place || strlen(watched) >= PATH_MAX || strlen(place) >= PATH_MAX) return;
    strcpy(root, watched);
    strcpy(folder, place);
    ignore_sync = getenv("POWER_CUT_IGNORE") != NULL;
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/journal", folder);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) abort();
    position = (uint64_t)st.st_size;
    journal = fd;
}

static int is_watched(const char *path) {
    size_t length = strlen(root);
    return journal >= 0 && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The path of an open file, if it is watched. */
static int watched_fd(int fd, char *path) {
    if (journal < 0) return 0;
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, name, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_watched(path);
}

/* The absolute path of a name, if it is watched. */
static int watched_name(int dir, const char *name, char *path) {
    if (journal < 0) return 0;
    if (name[0] == '/') {
        if (strlen(name) >= PATH_MAX) return 0;
        strcpy(path, name);
        return is_watched(path);
    }
    char base[PATH_MAX], link[64];
    snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, base, PATH_MAX - 1);
    if (length <= 0 || (size_t)length + strlen(name) + 2 > PATH_MAX) return 0;
    base[length] = 0;
    memcpy(path, base, (size_t)length);
    path[length] = '/';
    strcpy(path + length + 1, name);
    return is_watched(path);
}

static void put_all(const void *bytes, size_t length) {
    const char *from = bytes;
    while (length > 0) {
        long written = syscall(SYS_write, journal, from, length);
        if (written <= 0) abort();
        from += written;
        length -= (size_t)written;
    }
}

static void append(struct record *record, const char *path, const char *other, const void *data) {
    record->magic = MAGIC;
    record->path_bytes = path ? (uint32_t)strlen(path) : 0;
    record->other_bytes = other ? (uint32_t)strlen(other) : 0;
    size_t head = sizeof *record + record->path_bytes + record->other_bytes, all = head + record->data_bytes;
    char *buffer = malloc(all);
    if (!buffer) abort();
    memcpy(buffer, record, sizeof *record);
    if (path) memcpy(buffer + sizeof *record, path, record->path_bytes);
    if (other) memcpy(buffer + sizeof *record + record->path_bytes, other, record->other_bytes);
    if (record->data_bytes) memcpy(buffer + head, data, record->data_bytes);
    put_all(buffer, all);
    position += all;
    free(buffer);
}

static uint64_t inode_of(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 ? st.st_ino : 0;
}

static uint64_t parent_of(const char *path) {
    char parent[PATH_MAX];
    strcpy(parent, path);
    char *slash = strrchr(parent, '/');
    if (slash && slash != parent) *slash = 0;
    return inode_of(parent);
}

/* Keeps a file that loses this name; writes where. */
static void keep(const char *path, char *kept) {
    snprintf(kept, KEPT_MAX, "%s/kept-%llu", folder, (unsigned long long)position);
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, kept, 0) != 0) kept[0] = 0;
}

static void unknown(const char *call, const char *path) {
    struct record record = {.kind = UNKNOWN};
    pthread_mutex_lock(&turn);
    append(&record, path, call, NULL);
    pthread_mutex_unlock(&turn);
}

/* What lies in a file from `from` to `to`, as far as it reaches. */
static char *content(int fd, uint64_t from, uint64_t to, uint64_t *bytes) {
    *bytes = 0;
    if (from >= to) return NULL;
    char *buffer = malloc(to - from), name[64];
    if (!buffer) abort();
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int reader = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC, 0);
    if (reader < 0) abort();
    while (from + *bytes < to) {
        long got = syscall(SYS_pread64, reader, buffer + *bytes, to - from - *bytes, from + *bytes);
        if (got <= 0) break;
        *bytes += (uint64_t)got;
    }
    syscall(SYS_close, reader);
    return buffer;
}

/* Journals a write before it happens; the turn is held. */
static void will_write(int fd, const char *path, uint64_t offset, uint64_t length) {
    struct stat st;
    if (fstat(fd, &st) != 0) return;
    uint64_t size = (uint64_t)st.st_size, end = offset + length < size ? offset + length : size;
    struct record record = {.kind = WRITE, .inode = st.st_ino, .a = offset, .b = size, .c = length};
    char *before = content(fd, offset, end, &record.data_bytes);
    append(&record, path, NULL, before);
    free(before);
}

static void will_truncate(int fd, const char *path, uint64_t length) {
    struct stat st;
    if (fstat(fd, &st) != 0) return;
    uint64_t size = (uint64_t)st.st_size;
    struct record record = {.kind = TRUNCATE, .inode = st.st_ino, .a = length, .b = size};
    char *before = content(fd, length, size, &record.data_bytes);
    append(&record, path, NULL, before);
    free(before);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[PATH_MAX];
    if (!watched_fd(fd, path)) return REAL(write)(fd, bytes, length);
    pthread_mutex_lock(&turn);
    struct stat st;
    int appends = fcntl(fd, F_GETFL) & O_APPEND;
    off_t offset = appends && fstat(fd, &st) == 0 ? st.st_size : lseek(fd, 0, SEEK_CUR);
    if (offset >= 0) will_write(fd, path, (uint64_t)offset, length);
    ssize_t result = REAL(write)(fd, bytes, length);
    pthread_mutex_unlock(&turn);
    return result;
}

#define PWRITE(name, type)                                                                                             \
    ssize_t name(int fd, const void *bytes, size_t length, type offset) {                                              \
        char path[PATH_MAX];                                                                                           \
        if (!watched_fd(fd, path)) return REAL(name)(fd, bytes, length, offset);                                       \
        pthread_mutex_lock(&turn);                                                                                     \
        will_write(fd, path, (uint64_t)offset, length);                                                                \
        ssize_t result = REAL(name)(fd, bytes, length, offset);                                                        \
        pthread_mutex_unlock(&turn);                                                                                   \
        return result;                                                                                                 \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FTRUNCATE(name, type)                                                                                          \
    int name(int fd, type length) {                                                                                    \
        char path[PATH_MAX];                                                                                           \
        if (!watched_fd(fd, path)) return REAL(name)(fd, length);                                                      \
        pthread_mutex_lock(&turn);                                                                                     \
        will_truncate(fd, path, (uint64_t)length);                                                                     \
        int result = REAL(name)(fd, length);                                                                           \
        pthread_mutex_unlock(&turn);                                                                                   \
        return result;                                                                                                 \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

/* Journals what opening is about to do: make a file, or cut one off. The turn is held. */
static void will_open(const char *path, int flags) {
    struct stat st;
    int there = stat(path, &st) == 0;
    if ((flags & O_CREAT) && !there) {
        struct record record = {.kind = CREATE, .inode = parent_of(path)};
        append(&record, path, NULL, NULL);
    } else if ((flags & O_TRUNC) && there && S_ISREG(st.st_mode) && !((flags & O_CREAT) && (flags & O_EXCL))) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
        if (fd >= 0) {
            will_truncate(fd, path, 0);
            syscall(SYS_close, fd);
        }
    }
}

static mode_t mode_of(int flags, va_list rest) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

/* `openat` itself is replaced below, so the real one is reached as a system call. */
static int opened(int dir, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || !watched_name(dir, name, path))
        return (int)syscall(SYS_openat, dir, name, flags, mode);
    pthread_mutex_lock(&turn);
    will_open(path, flags);
    int fd = (int)syscall(SYS_openat, dir, name, flags, mode), error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return fd;
}

#define WITH_MODE(call)                                                                                                \
    va_list rest;                                                                                                      \
    va_start(rest, flags);                                                                                             \
    mode_t mode = mode_of(flags, rest);                                                                                \
    va_end(rest);                                                                                                      \
    return call

int open(const char *path, int flags, ...) { WITH_MODE(opened(AT_FDCWD, path, flags, mode)); }
int open64(const char *path, int flags, ...) { WITH_MODE(opened(AT_FDCWD, path, flags | O_LARGEFILE, mode)); }
int openat(int dir, const char *path, int flags, ...) { WITH_MODE(opened(dir, path, flags, mode)); }
int openat64(int dir, const char *path, int flags, ...) { WITH_MODE(opened(dir, path, flags | O_LARGEFILE, mode)); }

static int renamed(int from_dir, const char *from, int to_dir, const char *to) {
    char source[PATH_MAX], target[PATH_MAX];
    int ours = watched_name(from_dir, from, source) | watched_name(to_dir, to, target);
    if (!ours) return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
    pthread_mutex_lock(&turn);
    struct record record = {.kind = RENAME, .inode = parent_of(target), .a = inode_of(source), .b = parent_of(source)};
    char kept[KEPT_MAX] = "", both[PATH_MAX + KEPT_MAX];
    if (inode_of(target)) keep(target, kept);
    snprintf(both, sizeof both, "%s%c%s", target, '\n', kept);
    append(&record, source, both, NULL);
    int result = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
    int error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int from_dir, const char *from, int to_dir, const char *to) { return renamed(from_dir, from, to_dir, to); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char target[PATH_MAX];
    if (!watched_name(to_dir, to, target)) return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    pthread_mutex_lock(&turn);
    int result = -1, error = EEXIST;
    if (!inode_of(target)) {
        struct record record = {.kind = LINK, .inode = parent_of(target)};
        append(&record, target, NULL, NULL);
        result = (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
        error = errno;
    }
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int dir, const char *name, int flags) {
    char path[PATH_MAX];
    if (!watched_name(dir, name, path)) return (int)syscall(SYS_unlinkat, dir, name, flags);
    if (flags & AT_REMOVEDIR) unknown("rmdir", path);
    pthread_mutex_lock(&turn);
    if (!(flags & AT_REMOVEDIR) && inode_of(path)) {
        struct record record = {.kind = UNLINK, .inode = parent_of(path)};
        char kept[KEPT_MAX];
        keep(path, kept);
        append(&record, path, kept, NULL);
    }
    int result = (int)syscall(SYS_unlinkat, dir, name, flags), error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int dir, const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!watched_name(dir, name, path)) return (int)syscall(SYS_mkdirat, dir, name, mode);
    pthread_mutex_lock(&turn);
    if (!inode_of(path)) {
        struct record record = {.kind = MKDIR, .inode = parent_of(path)};
        append(&record, path, NULL, NULL);
    }
    int result = (int)syscall(SYS_mkdirat, dir, name, mode), error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* What was journalled before the sync began is durable once it has succeeded. */
static int synced(int fd, long call) {
    char path[PATH_MAX];
    if (!watched_fd(fd, path)) return (int)syscall(call, fd);
    if (ignore_sync) return 0;
    struct stat st;
    if (fstat(fd, &st) != 0) return -1;
    pthread_mutex_lock(&turn);
    struct record record = {.kind = SYNC, .inode = st.st_ino, .a = position};
    pthread_mutex_unlock(&turn);
    int result = (int)syscall(call, fd), error = errno;
    if (result == 0) {
        pthread_mutex_lock(&turn);
        append(&record, path, NULL, NULL);
        pthread_mutex_unlock(&turn);
    }
    errno = error;
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* What is not simulated, and must not be used on a watched file. */
#define REFUSED_FD(name, fd) do { char path[PATH_MAX]; if (watched_fd(fd, path)) unknown(#name, path); } while (0)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REFUSED_FD(writev, fd);
    return REAL(writev)(fd, parts, count);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    REFUSED_FD(fallocate, fd);
    return REAL(fallocate)(fd, mode, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) {
    REFUSED_FD(posix_fallocate, fd);
    return REAL(posix_fallocate)(fd, offset, length);
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    REFUSED_FD(copy_file_range, to);
    return REAL(copy_file_range)(from, from_at, to, to_at, length, flags);
}
