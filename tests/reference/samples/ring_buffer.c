/* A ring buffer of samples that drops the oldest. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RING_SAMPLES 64u

struct ring {
    int16_t samples[RING_SAMPLES];
    size_t next;
    size_t count;
};

void ring_clear(struct ring *ring)
{
    memset(ring, 0, sizeof *ring);
}

void ring_push(struct ring *ring, int16_t sample)
{
    ring->samples[ring->next] = sample;
    ring->next = (ring->next + 1u) % RING_SAMPLES;
    if (ring->count < RING_SAMPLES) {
        ring->count++;
    }
}

int main(void)
{
    struct ring ring;
    ring_clear(&ring);
    for (int i = 0; i < 100; i++) {
        ring_push(&ring, (int16_t)i);
    }
    return ring.count == RING_SAMPLES ? 0 : 1;
}
