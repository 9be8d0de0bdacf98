// Package kbuild is a toolkit for backends of kernels that are built by the kernel's own build system, as all distributions' and
// vendors' are. A backend says which kernels it has and brings the files of one together; the rest is here, and common to
// all of them: single translation units are compiled as the kernel's makefiles would, found, linked to modules, and trees are kept.
//
// A backend embeds Service, which serves the calls of backend.Backend that need a prepared tree and nothing else, and writes Probe and
// Prepare. Prepare calls Store.Make with a key that names all the files the tree is made of, and a function that fills an empty
// directory when there is no such tree yet; Tree.Describe makes the answer of it:
//
//	type Backend struct{ kbuild.Service }
//
//	func (b *Backend) Prepare(ctx context.Context, req *backend.PrepareRequest, progress plugin.ProgressFunc) (*backend.Tree, error) {
//		store := kbuild.NewStore(req.CacheDir)
//		tree, reused, err := store.Make(ctx, digests, progress, func(root string) (*kbuild.Info, error) {
//			if err := kbuild.Unpack(ctx, tarball, root, progress); err != nil {
//				return nil, err
//			}
//			// Put .config and Module.symvers of the kernel's build into root, and its image to kbuild.ImagePath(root).
//			info, err := kbuild.Configure(ctx, root, req.Release, req.Jobs, progress)
//			if err != nil {
//				return nil, err
//			}
//			info.Version, info.Banner = version, "ACME "+req.Release
//			return info, nil
//		})
//		if err != nil {
//			return nil, err
//		}
//		return tree.Describe(ctx, reused)
//	}
//
// examples/backend-tarball is a whole backend of that kind. One whose kernels come built, as Debian's do, fills the tree with what the build
// left instead, and gives an Info of its own.
//
// A tree on disk is a directory with three things: root, the kernel's sources with its configuration and generated headers
// built in place; state, what was learned about it (the make environment, evaluated directories, includes, compiler
// commands); and tree.json, which is written last and says that the tree is complete. Beside them may be vmlinuz, the kernel's image.
package kbuild
