/* A wall clock that a file moves: eight bytes, nanoseconds that are added to it. Preloaded; MOVED_CLOCK names the file.
 *
 * Monotonic clocks are left alone, as the kernel leaves them when somebody sets the time. Whoever waits for a moment of
 * the wall clock waits for it as it is by then: such a wait is cut into slices. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define SLICE (SECOND / 4)
#define VISIBLE __attribute__((visibility("default")))
#define REAL(name) ((__typeof__(&name))real(#name, NULL))
#define REAL_OF(name, version) ((__typeof__(&name))real(#name, version))

static const volatile int64_t *shift;

static void *real(const char *name, const char *version) {
    void *found = version ? dlvsym(RTLD_NEXT, name, version) : NULL; /* the oldest on x86-64 is another function */
    return found ? found : dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MOVED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *there = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (there != MAP_FAILED) shift = there;
    if (file >= 0) close(file);
}

static int is_wall(clockid_t id) { return id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE; }

static int64_t moved_by(void) { return shift ? *shift : 0; }

static int64_t as_ns(const struct timespec *at) { return at->tv_sec * SECOND + at->tv_nsec; }

static struct timespec from_ns(int64_t ns) {
    struct timespec at = {ns / SECOND, ns % SECOND};
    if (at.tv_nsec < 0) at.tv_nsec += SECOND, at.tv_sec -= 1;
    return at;
}

static int64_t unmoved_ns(void) {
    static __typeof__(&clock_gettime) get;
    struct timespec now;
    if (!get) get = REAL(clock_gettime);
    get(CLOCK_REALTIME, &now);
    return as_ns(&now);
}

/* Until when the kernel is to wait at most; *last: whether that is the moment that was asked for. */
static struct timespec slice(const struct timespec *until, int *last) {
    int64_t now = unmoved_ns(), left = as_ns(until) - moved_by() - now;
    *last = left <= SLICE;
    return from_ns(now + (*last ? left : SLICE) < 0 ? 0 : now + (*last ? left : SLICE));
}

VISIBLE int clock_gettime(clockid_t id, struct timespec *now) {
    static __typeof__(&clock_gettime) get;
    if (!get) get = REAL(clock_gettime);
    int failed = get(id, now);
    if (!failed && is_wall(id)) *now = from_ns(as_ns(now) + moved_by());
    return failed;
}

VISIBLE int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec, now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

VISIBLE time_t time(time_t *now) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (now) *now = at.tv_sec;
    return at.tv_sec;
}

VISIBLE int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

/* A wait that ends early without a reason is allowed, so whoever waits looks again and comes back. */
static int waited(int failed, int last) { return failed == ETIMEDOUT && !last ? 0 : failed; }

VISIBLE int pthread_cond_timedwait(
    pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static __typeof__(&pthread_cond_timedwait) wait;
    int last;
    if (!wait) wait = REAL_OF(pthread_cond_timedwait, "GLIBC_2.3.2");
    if (cond->__data.__wrefs & 2) return wait(cond, mutex, until); /* glibc's mark of a monotonic one */
    struct timespec then = slice(until, &last);
    return waited(wait(cond, mutex, &then), last);
}

VISIBLE int pthread_cond_clockwait(
    pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t id, const struct timespec *restrict until) {
    static __typeof__(&pthread_cond_clockwait) wait;
    int last;
    if (!wait) wait = REAL(pthread_cond_clockwait);
    if (!is_wall(id)) return wait(cond, mutex, id, until);
    struct timespec then = slice(until, &last);
    return waited(wait(cond, mutex, id, &then), last);
}

VISIBLE int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static __typeof__(&sem_timedwait) wait;
    int failed, last;
    if (!wait) wait = REAL(sem_timedwait);
    do {
        struct timespec then = slice(until, &last);
        failed = wait(semaphore, &then);
    } while (failed && errno == ETIMEDOUT && !last);
    return failed;
}

VISIBLE int sem_clockwait(sem_t *restrict semaphore, clockid_t id, const struct timespec *restrict until) {
    static __typeof__(&sem_clockwait) wait;
    if (!wait) wait = REAL(sem_clockwait);
    return is_wall(id) ? sem_timedwait(semaphore, until) : wait(semaphore, id, until);
}

VISIBLE int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static __typeof__(&pthread_mutex_timedlock) lock;
    int failed, last;
    if (!lock) lock = REAL(pthread_mutex_timedlock);
    do {
        struct timespec then = slice(until, &last);
        failed = lock(mutex, &then);
    } while (failed == ETIMEDOUT && !last);
    return failed;
}

VISIBLE int clock_nanosleep(clockid_t id, int flags, const struct timespec *until, struct timespec *left) {
    static __typeof__(&clock_nanosleep) sleep_until;
    int failed, last;
    if (!sleep_until) sleep_until = REAL(clock_nanosleep);
    if (!is_wall(id) || !(flags & TIMER_ABSTIME)) return sleep_until(id, flags, until, left);
    do {
        struct timespec then = slice(until, &last);
        failed = sleep_until(id, flags, &then, left);
    } while (!failed && !last);
    return failed;
}

/* Abseil waits for moments of the wall clock by this call alone; it takes an interruption for nothing. */
VISIBLE long syscall(long number, ...) {
    static __typeof__(&syscall) call;
    long given[6];
    int last = 1;
    struct timespec then;
    va_list more;
    va_start(more, number);
    for (int each = 0; each < 6; each++) given[each] = va_arg(more, long);
    va_end(more);
    if (!call) call = REAL(syscall);
    if (number == SYS_clock_gettime) return clock_gettime((clockid_t)given[0], (struct timespec *)given[1]);
    if (number == SYS_futex && (given[1] & FUTEX_CLOCK_REALTIME) && given[3]) {
        then = slice((const struct timespec *)given[3], &last);
        given[3] = (long)&then;
    }
    long told = call(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    if (told == -1 && errno == ETIMEDOUT && !last) errno = EINTR;
    return told;
}
