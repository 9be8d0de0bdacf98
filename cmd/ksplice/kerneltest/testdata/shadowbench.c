#include <ksplice.h>
#include <linux/livepatch.h>

/* What a look-up costs: ours, the kernel's own (kernel/livepatch/shadow.c), and the member that it stands for. */
#define BENCH_ROUNDS 5
#define BENCH_KLP 0x6b73706c

struct bench_object {
	u64 number;
	u64 payload[7];
};

KSPLICE_SHADOW(bench_field, "bench.number", u64, NULL, NULL);

static noinline u64 bench_plain(struct bench_object *o)
{
	return READ_ONCE(o->number);
}

static noinline u64 bench_ours(struct bench_object *o)
{
	return *(u64 *)ksplice_shadow_get(&bench_field, o);
}

static noinline u64 bench_theirs(struct bench_object *o)
{
	return *(u64 *)klp_shadow_get(o, BENCH_KLP);
}

static u64 bench_time(struct bench_object **all, unsigned int n, int what)
{
	u64 start = ktime_get_ns(), sum = 0;
	unsigned int i, k;

	for (k = 0; k < BENCH_ROUNDS; k++) {
		for (i = 0; i < n; i++)
			sum += what == 0 ? bench_plain(all[i]) : what == 1 ? bench_ours(all[i]) : bench_theirs(all[i]);
		cond_resched();
	}
	if (sum != (u64)n * (n - 1) / 2 * BENCH_ROUNDS)
		pr_err("shadowbench: the sum is wrong\n");
	return div_u64((ktime_get_ns() - start) * 1000, n * BENCH_ROUNDS);
}

static int bench_objects(unsigned int n)
{
	struct bench_object **all = kvcalloc(n, sizeof(*all), GFP_KERNEL);
	unsigned int i;
	u64 *number;
	int err = -ENOMEM;

	for (i = 0; all && i < n; i++) {
		all[i] = kzalloc(sizeof(*all[i]), GFP_KERNEL);
		if (!all[i])
			goto out;
		all[i]->number = i;
		number = ksplice_shadow_attach(&bench_field, all[i], NULL, GFP_KERNEL);
		if (!number)
			goto out;
		*number = i;
		number = klp_shadow_alloc(all[i], BENCH_KLP, sizeof(u64), GFP_KERNEL, NULL, NULL);
		if (!number)
			goto out;
		*number = i;
	}
	if (all) {
		err = 0;
		pr_info("shadowbench: %u objects, ps a look-up: %llu plain, %llu ksplice, %llu livepatch\n", n, bench_time(all, n, 0), bench_time(all, n, 1),
			bench_time(all, n, 2));
	}
out:
	klp_shadow_free_all(BENCH_KLP, NULL);
	ksplice_shadow_drop_all(&bench_field);
	for (i = 0; all && i < n; i++)
		kfree(all[i]);
	kvfree(all);
	return err;
}

static int bench(void)
{
	int err = bench_objects(1000);

	return err ? err : bench_objects(100000);
}
ksplice_pre_apply(bench);
